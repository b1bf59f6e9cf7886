"""What the stories are about: people, places with their things, and problems with what solves them.

Every word is in the CMU dictionary (a test holds this), so that a pronouncing aligner knows it.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = {
    "she": ("Anna", "Clara", "Emma", "Grace", "Helen", "Julia", "Laura", "Lucy", "Maria", "Nora", "Rosa", "Sarah"),
    "he": ("Adam", "Carl", "David", "Frank", "George", "Henry", "Jack", "Martin", "Oscar", "Peter", "Tom", "Victor"),
}
"""First names by pronoun. "Ben" is left out: too near "then" for small ears."""
PRONOUN = {name: pronoun for pronoun, names in NAMES.items() for name in names}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a story happens, and what is there."""

    at: str
    """"in the kitchen"."""
    to: str
    """"the kitchen"."""
    things: tuple[str, ...]
    """What people carry about here, beside THINGS."""
    spots: tuple[str, ...]
    devices: tuple[str, ...]
    scenery: tuple[str, ...]
    """Sentences that change nothing."""


THINGS = (
    "bag", "book", "bottle", "camera", "coat", "hat", "key", "letter", "map", "newspaper", "phone", "purse", "ring",
    "scarf", "umbrella", "watch",
)  # fmt: skip
"""What people carry anywhere."""

PLACES = {
    "kitchen": Place(
        at="in the kitchen",
        to="the kitchen",
        things=("pan", "spoon", "kettle", "plate", "jug", "knife"),
        spots=("on the table", "on the shelf", "under the sink", "by the stove", "in the drawer"),
        devices=("window", "oven", "radio"),
        scenery=(
            "The soup was warm on the stove.",
            "It smelled of fresh bread.",
            "A pot of potatoes was boiling.",
            "The dishes were drying by the sink.",
        ),
    ),
    "garden": Place(
        at="in the garden",
        to="the garden",
        things=("rake", "spade", "bucket", "basket", "pot", "ladder"),
        spots=("under the tree", "by the fence", "on the bench", "behind the shed", "near the gate"),
        devices=("gate", "shed", "tap"),
        scenery=(
            "The roses were in flower.",
            "Bees flew from flower to flower.",
            "The grass had grown tall.",
            "Two birds sang in the apple tree.",
        ),
    ),
    "park": Place(
        at="in the park",
        to="the park",
        things=("ball", "kite", "scooter", "drum", "blanket", "bicycle"),
        spots=("under the bench", "by the pond", "behind the tree", "near the fountain", "on the grass"),
        devices=("gate", "fountain", "radio"),
        scenery=(
            "Ducks swam on the pond.",
            "Children ran over the grass.",
            "An old man fed the pigeons.",
            "A jogger ran past the trees.",
        ),
    ),
    "beach": Place(
        at="on the beach",
        to="the beach",
        things=("towel", "shell", "shovel", "net", "blanket", "surfboard"),
        spots=("on the sand", "under the rock", "in the boat", "by the water", "behind the hut"),
        devices=("hut", "radio", "shower"),
        scenery=(
            "The waves rolled onto the sand.",
            "A sail moved along the coast.",
            "Gulls cried above the sea.",
            "The sand was warm and white.",
        ),
    ),
    "school": Place(
        at="at school",
        to="the school",
        things=("pencil", "ruler", "notebook", "globe", "brush", "poster"),
        spots=("on the desk", "on the shelf", "under the chair", "by the board", "in the locker"),
        devices=("window", "door", "lamp"),
        scenery=(
            "The pupils were drawing a map.",
            "The teacher wrote on the board.",
            "The class was learning a poem.",
            "Some children were counting aloud.",
        ),
    ),
    "office": Place(
        at="in the office",
        to="the office",
        things=("folder", "stapler", "laptop", "envelope", "calendar", "pen"),
        spots=("on the desk", "in the drawer", "by the printer", "on the cabinet", "under the lamp"),
        devices=("window", "fan", "computer"),
        scenery=(
            "The boss was in a meeting.",
            "Everyone was busy with the report.",
            "Somebody was typing next door.",
            "The coffee machine was on.",
        ),
    ),
    "farm": Place(
        at="on the farm",
        to="the farm",
        things=("saddle", "rope", "basket", "bucket", "lantern", "whip"),
        spots=("in the barn", "by the fence", "behind the tractor", "under the cart", "near the well"),
        devices=("gate", "barn", "tractor"),
        scenery=(
            "The hens were looking for corn.",
            "A horse stood in the field.",
            "The pigs slept in the mud.",
            "The farmer was cutting the wheat.",
        ),
    ),
    "station": Place(
        at="at the station",
        to="the station",
        things=("suitcase", "ticket", "backpack", "trunk", "guitar", "cane"),
        spots=("on the platform", "by the clock", "under the bench", "near the stairs", "behind the counter"),
        devices=("door", "heater", "radio"),
        scenery=(
            "A train rolled in from the north.",
            "Travelers hurried to the platform.",
            "The guard blew a whistle.",
            "A voice announced the next train.",
        ),
    ),
    "market": Place(
        at="at the market",
        to="the market",
        things=("melon", "vase", "carpet", "cake", "fish", "candle"),
        spots=("on the counter", "by the scale", "under the cart", "behind the stall", "in the crate"),
        devices=("tent", "fan", "stall"),
        scenery=(
            "A woman was selling cheese.",
            "The stalls were full of fruit.",
            "A man called out his prices.",
            "Many people came to buy onions.",
        ),
    ),
    "library": Place(
        at="in the library",
        to="the library",
        things=("dictionary", "magazine", "atlas", "novel", "notebook", "pen"),
        spots=("on the shelf", "on the desk", "under the ladder", "by the window", "behind the globe"),
        devices=("window", "lamp", "computer"),
        scenery=(
            "Students read in silence.",
            "The rows of books were long.",
            "The clerk was sorting old novels.",
            "Nobody spoke above a whisper.",
        ),
    ),
    "workshop": Place(
        at="in the workshop",
        to="the workshop",
        things=("hammer", "saw", "drill", "wrench", "brush", "ladder"),
        spots=("on the bench", "on the hook", "under the ladder", "in the toolbox", "by the wall"),
        devices=("door", "heater", "machine"),
        scenery=(
            "There was dust from the saw everywhere.",
            "It smelled of oil and wood.",
            "Old tools hung on the wall.",
            "A new table was being built.",
        ),
    ),
    "forest": Place(
        at="in the forest",
        to="the forest",
        things=("ax", "compass", "lantern", "basket", "rope", "knife"),
        spots=("under the oak", "by the stream", "behind the rock", "on the log", "near the path"),
        devices=("hut", "lamp", "tent"),
        scenery=(
            "A deer stood among the trees.",
            "Leaves fell on the path.",
            "An owl called from a branch.",
            "Mushrooms grew under the oaks.",
        ),
    ),
}

OPENABLE = frozenset({"window", "gate", "shed", "hut", "door", "barn", "tent", "stall"})
"""Devices that are opened and shut; the others are turned on and off."""

IDLE = {
    "story": ("{p} told {q} a funny story.", "{p} made {q} laugh with a joke."),
    "weather": ("{p} talked to {q} about the weather.", "{p} and {q} spoke about the weather."),
    "song": ("{p} sang an old song.", "{p} began to sing."),
    "holiday": ("{p} asked {q} about the summer.", "{p} and {q} made plans for the summer."),
    "friend": ("{p} waved to a friend.", "{p} said hello to a friend."),
    "time": ("{p} asked what time it was.", "{p} wanted to know the time."),
    "smile": ("{p} smiled at {q}.", "{p} gave {q} a smile."),
    "dream": ("{p} told {q} about a strange dream.", "{p} spoke of a strange dream."),
    "sister": ("{p} spoke about {his} sister.", "{p} told {q} news of {his} sister."),
    "film": ("{p} talked about a movie.", "{p} told {q} about a movie."),
    "birthday": ("{p} reminded {q} of the birthday party.", "{p} and {q} talked about the birthday party."),
    "sky": ("{p} looked up at the clouds.", "{p} watched the clouds for a while."),
    "game": ("{p} and {q} played a game of cards.", "{p} played cards with {q}."),
    "walk": ("{p} walked up and down.", "{p} walked around for a while."),
}
"""What people do that changes nothing."""
