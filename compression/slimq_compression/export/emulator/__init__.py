"""Runs an export to C on an emulated microcontroller, QEMU's; its programs are C files here."""
