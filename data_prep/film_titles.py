"""Made-up film titles for the synthetic sample, from a list of words for each taste group."""

_WORDS: dict[str, tuple[str, str, str]] = {
    # group: (nouns, adjectives, places)
    "space": (
        "Orbit Comet Starship Airlock Nebula Satellite Cosmonaut Moonbase",
        "Distant Silent Frozen Last Weightless Forgotten",
        "Titan,the Ninth Planet,Andromeda,the Dark Side",
    ),
    "heist": (
        "Vault Getaway Diamond Safecracker Alibi Blueprint Decoy Jackpot",
        "Perfect Crooked Golden Double Impossible Velvet",
        "Monte Carlo,the Grand Hotel,Lisbon,the Old Mint",
    ),
    "noir": (
        "Shadow Detective Streetlamp Cigarette Witness Stranger Telegram Raincoat",
        "Midnight Guilty Crimson Lonely Smoky Broken",
        "Harbour Street,the Waterfront,Room Twelve,the Blue Parrot",
    ),
    "romance": (
        "Letter Waltz Promise Bouquet Summer Kiss Honeymoon Serenade",
        "Tender Secret Second Borrowed Endless Parisian",
        "Verona,the Lake House,the Rose Garden,Montmartre",
    ),
    "western": (
        "Sheriff Saddle Stagecoach Gunslinger Ranch Outlaw Canyon Posse",
        "Dusty Lonesome Wanted Wild Iron Vengeful",
        "Silver Creek,Dead Mule Gulch,the Rio Bravo,Cactus Pass",
    ),
    "haunted house": (
        "Attic Cellar Ghost Mirror Curse Lullaby Staircase Portrait",
        "Whispering Pale Hollow Restless Locked Unquiet",
        "Blackwood Hall,the East Wing,Grey Manor,the Nursery",
    ),
    "courtroom": (
        "Verdict Jury Testimony Objection Appeal Judge Motive Oath",
        "Reasonable Final Hostile Reluctant Sworn Dissenting",
        "Chamber Nine,the High Court,Cedar County,the Old Bailey",
    ),
    "spy": (
        "Agent Cipher Courier Defector Dossier Embassy Passport Microfilm",
        "Double Invisible Burned Loyal Coded Cold",
        "Vienna,Checkpoint Four,Istanbul,the Night Train",
    ),
    "musical": (
        "Chorus Melody Rhapsody Tap-Dancer Overture Showgirl Ballad Encore",
        "Dazzling Singing Merry Broadway Swinging Starlit",
        "the Palladium,Forty-Second Street,Rio,the Opera Steps",
    ),
    "sports": (
        "Champion Goalkeeper Marathon Underdog Knockout Relay Coach Trophy",
        "Unbeaten Final Golden Young Hard-Won Home",
        "the Stadium,Lane Five,Center Court,the Third Round",
    ),
    "family": (
        "Puppy Treehouse Kite Grandfather Picnic Dragon Snowman Pony",
        "Little Magic Runaway Clever Muddy Brave",
        "Willow Farm,Button Lane,the Toy Shop,Pine Island",
    ),
    "nature": (
        "Glacier Reef Savanna Migration Rainforest Wolf Volcano Tide",
        "Living Hidden Ancient Roaring Untamed Vanishing",
        "Patagonia,the Kalahari,the Deep Sea,Kamchatka",
    ),
}

GROUPS: tuple[str, ...] = tuple(_WORDS)


def group_titles(group: int) -> list[str]:
    """Return the possible titles of a group, all distinct; some have a comma, as film catalogues write an article."""
    nouns, adjectives, places = (
        words.split(mark) for words, mark in zip(_WORDS[GROUPS[group]], (" ", " ", ","), strict=True)
    )
    plain = [f"{adjective} {noun}" for adjective in adjectives for noun in nouns]
    placed = [f"{noun} of {places[0]}, The" for noun in nouns]
    placed += [f"{'An' if noun[0] in 'AEIOU' else 'A'} {noun} from {place}" for noun in nouns for place in places[1:]]
    return plain + placed
