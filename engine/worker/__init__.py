"""The engine process: everything that holds tensors and runs steps on the device."""
