"""Problems that befall a person, and what that person does about them: the causal knowledge of the stories."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StoryProblem:
    """Sentences that say that it arises, and sentences that say how it is solved, about {p}."""

    arises: tuple[str, ...]
    solved: tuple[str, ...]
    places: tuple[str, ...] = ()
    """Empty: anywhere."""


PROBLEMS = {
    "hungry": StoryProblem(
        arises=("{p} had eaten nothing all day.", "{p} was very hungry.", "{p} felt {his} empty stomach."),
        solved=("{p} ate a big sandwich.", "{p} had some bread and cheese.", "{p} sat down to a good meal."),
    ),
    "thirsty": StoryProblem(
        arises=("{p} was very thirsty.", "{p} had a dry throat.", "{p} had drunk nothing for hours."),
        solved=("{p} drank a glass of water.", "{p} had some cold juice.", "{p} drank a cup of tea."),
    ),
    "cold": StoryProblem(
        arises=("{p} began to shiver.", "{p} was freezing.", "{p} felt the icy wind."),
        solved=("{p} put on a thick sweater.", "{p} put on warm clothes.", "{p} pulled on woolen gloves."),
    ),
    "tired": StoryProblem(
        arises=("{p} could hardly stay awake.", "{p} was very tired.", "{p} yawned again and again."),
        solved=("{p} lay down and fell asleep.", "{p} took a nap.", "{p} slept for an hour."),
    ),
    "knee": StoryProblem(
        arises=(
            "{p} fell and hurt {his} knee.",
            "{p} slipped and cut {his} knee.",
            "{p} stumbled and scraped {his} leg.",
        ),
        solved=("{p} put a bandage on the wound.", "{p} cleaned the cut and covered it.", "{p} limped to the doctor."),
    ),
    "hands": StoryProblem(
        arises=("{p} got black grease on {his} fingers.", "{p} had very dirty hands.", "{p} touched the wet paint."),
        solved=("{p} washed with soap.", "{p} scrubbed until the hands were clean.", "{p} used a lot of soap."),
    ),
    "headache": StoryProblem(
        arises=("{p} had a terrible headache.", "{p} felt a pain in {his} head.", "{p} had a fever."),
        solved=("{p} took a pill.", "{p} swallowed some medicine.", "{p} asked a nurse for medicine."),
    ),
    "scared": StoryProblem(
        arises=("{p} heard a loud bang.", "{p} saw a huge spider.", "A fierce dog ran at {p}."),
        solved=("{p} screamed and ran away.", "{p} hid from it.", "{p} fled in fear."),
    ),
    "sad": StoryProblem(
        arises=("{p} got very bad news.", "{p} was sad and lonely.", "{p} had lost {his} little cat."),
        solved=("{p} began to cry.", "{p} cried for a long time.", "{p} wiped away the tears."),
    ),
    "torn": StoryProblem(
        arises=("{p} tore {his} shirt on a nail.", "{p} lost a button.", "{p} found a hole in {his} sleeve."),
        solved=("{p} got a needle and thread.", "{p} sewed it up.", "{p} mended it with thread."),
    ),
    "call": StoryProblem(
        arises=("Somebody called {p} from far away.", "{p} had promised to call {his} mother.", "{p} missed a call."),
        solved=("{p} called back at once.", "{p} dialed the number.", "{p} had a long talk with {his} mother."),
    ),
    "lost_bet": StoryProblem(
        arises=("{p} lost a bet.", "{p} owed a neighbor money.", "{p} still had a debt."),
        solved=("{p} paid ten dollars.", "{p} counted out the money.", "{p} paid back every cent."),
    ),
    "milk": StoryProblem(
        arises=("{p} forgot the milk, and it boiled over.", "{p} smelled burning milk.", "{p} heard the milk hiss."),
        solved=("{p} took the pot off the heat.", "{p} pulled the hot pot away.", "{p} lifted the pot from the flame."),
        places=("kitchen",),
    ),
    "glass": StoryProblem(
        arises=("{p} dropped a glass.", "{p} broke a cup.", "{p} knocked a bowl off the edge."),
        solved=("{p} swept up the pieces.", "{p} got a broom for the pieces.", "{p} threw the pieces away."),
        places=("kitchen", "office"),
    ),
    "flowers": StoryProblem(
        arises=(
            "{p} saw that the flowers were dry.",
            "{p} found dry earth around the plants.",
            "No rain had fallen, said {p}.",
        ),
        solved=("{p} watered the plants.", "{p} fetched water for the flowers.", "{p} poured water on the roots."),
        places=("garden",),
    ),
    "apples": StoryProblem(
        arises=(
            "{p} saw that the apples were ripe.",
            "{p} found apples all over the ground.",
            "{p} noticed the ripe plums.",
        ),
        solved=("{p} picked the fruit.", "{p} gathered the fruit.", "{p} carried home all the fruit."),
        places=("garden", "farm"),
    ),
    "runaway": StoryProblem(
        arises=("{p} lost hold of the puppy.", "The puppy ran away from {p}.", "{p} let go of the leash."),
        solved=("{p} chased the puppy.", "{p} caught the puppy.", "{p} ran after the little dog."),
        places=("park", "beach"),
    ),
    "stuck": StoryProblem(
        arises=(
            "{p} saw a kitten high in a tree.",
            "{p} heard a cat cry from a branch.",
            "{p} found a cat stuck in a tree.",
        ),
        solved=("{p} climbed up and saved it.", "{p} climbed up with care.", "{p} carried it down."),
        places=("park", "garden", "forest"),
    ),
    "wave": StoryProblem(
        arises=("A big wave splashed {p}.", "{p} fell into the sea.", "{p} was soaked by a wave."),
        solved=("{p} dried off in the sun.", "{p} wrung out the wet clothes.", "{p} lay in the sun to dry."),
        places=("beach",),
    ),
    "castle": StoryProblem(
        arises=(
            "{p} saw the sea take the castle.",
            "{p} stepped on the castle of sand.",
            "The castle of {p} fell down.",
        ),
        solved=("{p} built a new castle.", "{p} dug in the wet sand again.", "{p} built a higher tower."),
        places=("beach",),
    ),
    "test": StoryProblem(
        arises=("{p} had not studied for the test.", "{p} failed the spelling test.", "{p} got a bad grade."),
        solved=("{p} studied all evening.", "{p} learned the lesson by heart.", "{p} practiced the hard words."),
        places=("school", "library"),
    ),
    "chalk": StoryProblem(
        arises=(
            "{p} saw that the board was full.",
            "{p} wrote a wrong number in chalk.",
            "{p} spelled a word wrong in chalk.",
        ),
        solved=("{p} wiped the board clean.", "{p} rubbed it out.", "{p} erased it with a sponge."),
        places=("school",),
    ),
    "printer": StoryProblem(
        arises=("{p} found the printer empty.", "{p} could not print the page.", "{p} ran out of paper."),
        solved=("{p} put in fresh paper.", "{p} opened a new pack of paper.", "{p} fetched more paper."),
        places=("office", "library"),
    ),
    "customer": StoryProblem(
        arises=("An angry customer shouted at {p}.", "{p} had made a customer angry.", "{p} got an angry message."),
        solved=("{p} said sorry.", "{p} apologized.", "{p} wrote a polite reply."),
        places=("office", "market"),
    ),
    "cows": StoryProblem(
        arises=("{p} heard the cows call.", "{p} saw that it was time for the cows.", "The cows were waiting for {p}."),
        solved=("{p} milked the cows.", "{p} fetched a stool for milking.", "{p} got two cans of milk."),
        places=("farm",),
    ),
    "sheep": StoryProblem(
        arises=(
            "{p} saw the sheep run into the road.",
            "{p} counted one sheep too few.",
            "{p} found a hole in the sheep fence.",
        ),
        solved=("{p} drove the sheep back.", "{p} went to find the sheep.", "{p} brought the flock home."),
        places=("farm",),
    ),
    "late": StoryProblem(
        arises=("{p} heard that the train was late.", "{p} missed the train.", "{p} saw the train leave early."),
        solved=("{p} waited for the next train.", "{p} went by bus.", "{p} called a taxi."),
        places=("station",),
    ),
    "crowd": StoryProblem(
        arises=(
            "{p} could not find the right platform.",
            "{p} did not know which train to take.",
            "{p} was lost in the crowd.",
        ),
        solved=("{p} asked the guard.", "{p} read the big sign.", "{p} looked at the board with the trains."),
        places=("station",),
    ),
    "price": StoryProblem(
        arises=(
            "{p} thought the price was too high.",
            "{p} did not want to pay so much.",
            "{p} found the cheese too expensive.",
        ),
        solved=("{p} asked for a lower price.", "{p} got it for half the price.", "{p} made a better offer."),
        places=("market",),
    ),
    "eggs": StoryProblem(
        arises=("{p} dropped a box of eggs.", "{p} stepped on an egg.", "{p} let the eggs fall."),
        solved=("{p} wiped the yolk from {his} shoes.", "{p} cleaned up the yolk.", "{p} mopped up the yellow mess."),
        places=("market", "farm", "kitchen"),
    ),
    "overdue": StoryProblem(
        arises=("{p} had kept a novel too long.", "{p} was a month late with a novel.", "{p} had torn a page."),
        solved=("{p} paid the fine.", "{p} paid the clerk a fine.", "{p} gave the clerk two coins."),
        places=("library",),
    ),
    "loud": StoryProblem(
        arises=(
            "{p} could not read for the noise.",
            "Two boys were noisy near {p}.",
            "{p} was bothered by loud voices.",
        ),
        solved=("{p} asked them to be quiet.", "{p} told them to whisper.", "{p} moved to a quiet room."),
        places=("library", "school"),
    ),
    "leg": StoryProblem(
        arises=(
            "{p} saw that the stool was broken.",
            "{p} sat on a stool and it broke.",
            "{p} found the leg of a stool.",
        ),
        solved=("{p} glued the leg.", "{p} fixed it with glue.", "{p} repaired it with glue and screws."),
        places=("workshop", "kitchen"),
    ),
    "tire": StoryProblem(
        arises=("{p} had a flat tire.", "{p} rode over a sharp nail.", "{p} heard the air leave the tire."),
        solved=("{p} pumped up the tire.", "{p} changed the wheel.", "{p} patched the rubber."),
        places=("workshop", "farm", "park"),
    ),
    "path": StoryProblem(
        arises=("{p} lost the way.", "{p} took a wrong turn.", "{p} did not know the way back."),
        solved=("{p} followed the river home.", "{p} looked for the north star.", "{p} climbed a hill to look around."),
        places=("forest",),
    ),
    "dark": StoryProblem(
        arises=("{p} saw that it was getting dark.", "{p} could see nothing in the dark.", "Night fell around {p}."),
        solved=("{p} lit a fire.", "{p} made a campfire.", "{p} struck a match."),
        places=("forest", "beach"),
    ),
}


def problems_at(place: str) -> tuple[str, ...]:
    """The problems that can arise at a place."""
    return tuple(key for key, problem in PROBLEMS.items() if not problem.places or place in problem.places)
