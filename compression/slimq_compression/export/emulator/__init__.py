"""Runs C exports on a microcontroller emulated by QEMU, by means of the C programs here."""
