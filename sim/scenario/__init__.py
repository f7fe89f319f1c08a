"""What a file asks for: scenarios, checked as a whole, and their JSON Schema.

Imports `base`, `graphs`, `models`, `schedules`, `simulation`, `strategies`.
"""
