"""HLO of compiled programs: instructions, collectives, memory traffic, roofline."""
