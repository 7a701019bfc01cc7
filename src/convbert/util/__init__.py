"""Small things that every room needs and that know none of them."""
