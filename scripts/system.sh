#!/usr/bin/env bash
# system.sh [qt] [xvfb] [PACKAGE…]: what pip cannot bring. "qt" is Qt's libraries and a font, "xvfb" a screen without a
# monitor. What is missing is installed with apt where that is allowed (root, sudo without a password) and otherwise
# named with the command to type. Looks at files only, so it costs nothing when all is there.
set -euo pipefail
[ "$(uname -s)" = Linux ] || exit 0

# What Qt's xcb platform plugin and its fonts are linked against, with Debian's names.
qt="libEGL.so.1 libegl1
libGL.so.1 libgl1
libX11-xcb.so.1 libx11-xcb1
libdbus-1.so.3 libdbus-1-3
libfontconfig.so.1 libfontconfig1
libglib-2.0.so.0 libglib2.0-0
libxcb-cursor.so.0 libxcb-cursor0
libxcb-icccm.so.4 libxcb-icccm4
libxcb-image.so.0 libxcb-image0
libxcb-keysyms.so.1 libxcb-keysyms1
libxcb-randr.so.0 libxcb-randr0
libxcb-render-util.so.0 libxcb-render-util0
libxcb-render.so.0 libxcb-render0
libxcb-shape.so.0 libxcb-shape0
libxcb-shm.so.0 libxcb-shm0
libxcb-sync.so.1 libxcb-sync1
libxcb-xfixes.so.0 libxcb-xfixes0
libxcb-xkb.so.1 libxcb-xkb1
libxkbcommon-x11.so.0 libxkbcommon-x11-0
libxkbcommon.so.0 libxkbcommon0"

missing=()
for what in "$@"; do
  case $what in
    qt)
      # ldconfig is outside a user's PATH on Debian; where there is none (musl, Nix), nothing can be said about libraries.
      if known=$(PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null); then
        while read -r library package; do
          [[ $known == *"$library "* ]] || missing+=("$package")
        done <<<"$qt"
      fi
      # Without any font every text is a row of boxes.
      [ -n "$(find /usr/share/fonts /usr/local/share/fonts ~/.fonts ~/.local/share/fonts -name '*.[ot]t[cf]' -print -quit 2>/dev/null)" ] ||
        missing+=(fonts-dejavu-core)
      ;;
    xvfb)
      command -v Xvfb xvfb-run >/dev/null || missing+=(xvfb)
      command -v xauth >/dev/null || missing+=(xauth)
      ;;
    *) missing+=("$what") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "Missing, by Debian's names: ${missing[*]}. Please install them with your package manager if the next step fails." >&2
  exit 0
fi
install=(apt-get install -y --no-install-recommends "${missing[@]}")
if [ "$(id -u)" = 0 ]; then
  root=(env)
elif sudo -n true 2>/dev/null; then
  root=(sudo -n env)
else
  echo "Some system packages are missing. Please type: sudo ${install[*]}" >&2
  exit 1
fi
echo "Installing system packages: ${missing[*]}"
root+=(DEBIAN_FRONTEND=noninteractive)
# A failed update (one dead source) need not matter: the install decides.
if ! log=$("${root[@]}" apt-get update -q 2>&1; "${root[@]}" "${install[@]}" -q -o DPkg::Lock::Timeout=120 2>&1); then
  printf '%s\nThat did not work. Please type: sudo %s\n' "$log" "${install[*]}" >&2
  exit 1
fi
