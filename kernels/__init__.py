"""The operations of the dense pass, one file each: formula, reference, fast form."""
