"""Every operation on the devices of this machine, against the interpreter: ``afterburner doctor --full``."""
