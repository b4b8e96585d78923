"""One module per compression technique; the catalogue lists them all."""
