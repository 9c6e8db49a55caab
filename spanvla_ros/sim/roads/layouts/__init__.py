"""Seeded layouts of maps, one module per kind: number -> Plan."""
