"""What every target needs of a call: the program as one string, devices, arguments, the store on disk."""
