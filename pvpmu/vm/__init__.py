"""A real VM: KVM through its ioctls, a guest in C, and the host's vPMU behind its VM-exits."""
