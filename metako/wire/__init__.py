"""What travels between agents: messages, their encoding, and the seal around them."""
