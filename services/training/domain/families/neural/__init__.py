"""Networks on torch: `loop` trains any of them, on pytorch-lightning; a module a family builds and exports them."""
