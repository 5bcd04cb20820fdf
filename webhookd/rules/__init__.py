"""What is decided: rules without I/O, without a clock, without asyncio."""
