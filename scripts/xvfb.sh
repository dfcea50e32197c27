#!/usr/bin/env bash
# xvfb.sh COMMAND…: runs it on a screen of its own: real windows, the same everywhere, and none of them on yours.
[ "$(uname -s)" = Linux ] || exec "$@"
exec env -u WAYLAND_DISPLAY QT_QPA_PLATFORM=xcb xvfb-run -a -s "-screen 0 1920x1080x24" "$@"
