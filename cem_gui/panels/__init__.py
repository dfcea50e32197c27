"""One file a panel: signals out, show_*() in; panels never import each other."""
