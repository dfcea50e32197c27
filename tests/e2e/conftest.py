from windows import home, nothing_left, wait, window  # noqa: F401
