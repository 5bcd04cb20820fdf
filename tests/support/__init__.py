"""What tests share: a clock held by hand, and other real parts that do what a test says."""
