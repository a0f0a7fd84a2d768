"""What runs compiled programs: executables, memory, threads, cached objects, measurements."""
