"""The product, with faults in it whose exceptions quote what they should not."""
