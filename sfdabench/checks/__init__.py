"""The contracts as public functions, and the toy problem they run on."""
