"""The registry on SQL, encrypted objects and a verifying child process."""
