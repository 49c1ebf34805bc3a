"""The networks of the paper: Local-Net, Global-Net, the two heads, and the model that holds them."""
