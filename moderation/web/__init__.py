"""The HTTP door: what platforms call. It holds no torch and starts in a second."""
