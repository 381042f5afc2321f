"""Words in the names of columns that tell what a column is probably for. English, and some German."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TIME: Final = _words(
    "time date datetime timestamp ts at when created occurred event zeit datum uhrzeit zeitpunkt zeitstempel am"
)
KNOWN: Final = _words(
    "known label labelled labeled resolved settled confirmed reported decided review reviewed closed geprüft "
    "entschieden abgeschlossen bestätigt"
)
"""Of a time: when it was known what came of the event."""
LATER: Final = KNOWN | _words(
    "updated outcome end ended due birth dob expiry expires valid modified chargeback arrival departure returned "
    "fällig geburtsdatum geändert"
)
"""Of a time that is not the event's own."""
ID: Final = _words("id ids uuid guid key no nr number num code ref hash")
ROW: Final = _words(
    "row index event transaction tx record order booking payment claim ticket invoice case id uuid buchung bestellung "
    "rechnung schaden vorgang zahlung"
)
USER: Final = _words(
    "user customer client account card player member household subscriber patient person guest driver passenger "
    "visitor buyer holder iban pan acct email kunde konto kundennummer cliente applicant borrower debtor tenant "
    "employee student policyholder donor versicherungsnehmer mitarbeiter kundin"
)
DEVICE: Final = _words(
    "device machine sensor drive engine unit pump vehicle meter entity station asset node host server serial equipment "
    "file turbine spacecraft"
)
SHOP: Final = _words("merchant terminal shop store seller vendor payee händler filiale lieferant werkstatt")
ENTITY: Final = USER | DEVICE | SHOP
KIND: Final = _words("type kind class category group segment status name size count total model")
"""Of what entities have in common, which names none of them."""
WORTH: Final = _words("amount value price spend total score sum revenue cost balance volume eur usd betrag")
MONEY: Final = _words("amount price spend betrag")
POSTAL: Final = _words("zip zipcode postal postcode plz postleitzahl pincode cep")
POSTAL_OF: Final = POSTAL | ID | ENTITY | _words("prefix address billing shipping delivery home origin destination")
"""All words that a postal code may have in its name: ``zip_count`` and ``zip_income`` are numbers."""
LABEL: Final = _words(
    "label target fraud class y outcome churn churned churner default defaulted anomaly attack failed failure fail "
    "cancelled canceled bad spam lapse lapsed converted response fraudulent isfraud betrug storno escalated disputed "
    "cancellation gekündigt kündigung ausgefallen"
)
AFTERWARDS: Final = _words("chargeback dispute refund resolution resolved")
"""Of what nobody knows when the event comes."""
NO_OUTCOME: Final = _words("updated modified birth dob expiry expires valid due start started planned expected")
"""Of a later time that is no outcome of the event."""
BAD: Final = ("fraud", "bad", "default", "churn", "fail", "cancel", "attack", "anomal", "betrug", "spam", "malicious")
"""Parts of a label's value that mean 1."""
TELLING: Final = ("fraud", "churn", "attack", "anomal", "malicious", "spam", "betrug", "storniert", "gekündigt")
"""Those that say of a column with another name, too, that it is a label: others, as ``default``, have more meanings."""
