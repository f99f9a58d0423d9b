"""What guest and host agree on: tables, page, slot, control messages, memory."""
