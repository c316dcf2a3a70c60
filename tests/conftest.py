"""What every test starts from."""

import signal

# In a shell's background it is ignored, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
