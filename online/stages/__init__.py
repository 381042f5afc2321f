"""The stages an event and a label pass: admission, scoring, labelling."""
