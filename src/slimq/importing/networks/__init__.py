"""Networks of other programs in a neutral form, and as slimq's own."""
