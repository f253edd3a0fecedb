"""The doctor: says before anything is touched what would keep an appliance from coming up."""
