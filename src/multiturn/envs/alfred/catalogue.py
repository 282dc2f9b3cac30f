"""What there is in a household: rooms, receptacles, objects, and where things usually lie.

The names are those of the ALFRED text domain. The weights follow common sense and what one finds when
walking through its training rooms; nothing in them is specific to any one game.
"""

from __future__ import annotations

import dataclasses

__all__ = [
    "FITS",
    "OPENABLE",
    "PROPERTIES",
    "ROOMS",
    "TOOLS",
    "USUAL_PLACES",
    "Room",
    "pddl_name",
]


def _weights(text: str) -> dict[str, int]:
    return {name: int(weight) for name, weight in (entry.split(":") for entry in text.split())}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


USUAL_PLACES: dict[str, dict[str, int]] = {
    name: _weights(places)
    for name, places in {
        "alarmclock": "desk:34 shelf:21 sidetable:19 dresser:17 diningtable:7 countertop:1",
        "apple": "countertop:25 fridge:24 diningtable:15 microwave:13 garbagecan:12 sinkbasin:9 sidetable:2",
        "book": "bed:37 desk:14 countertop:10 drawer:10 dresser:6 diningtable:5 cabinet:4 sidetable:4 "
        "coffeetable:3 armchair:3 sofa:2 shelf:2",
        "bowl": "cabinet:30 countertop:18 fridge:17 diningtable:15 desk:6 shelf:5 sinkbasin:3 microwave:2 "
        "dresser:2 sidetable:1 coffeetable:1",
        "box": "diningtable:23 sofa:22 coffeetable:21 shelf:8 sidetable:7 desk:6 cabinet:4 dresser:3 "
        "armchair:3 ottoman:1",
        "bread": "countertop:55 diningtable:31 fridge:12 sidetable:1 garbagecan:1 microwave:1",
        "butterknife": "countertop:59 diningtable:27 drawer:8 sinkbasin:5 sidetable:1",
        "candle": "countertop:28 toilet:28 drawer:12 cabinet:12 shelf:6 sidetable:6 coffeetable:2 "
        "diningtable:2 cart:2 dresser:1",
        "cd": "drawer:28 desk:20 dresser:14 sidetable:13 garbagecan:8 shelf:7 diningtable:6 cabinet:2 safe:1",
        "cellphone": "bed:21 drawer:21 desk:13 dresser:9 sidetable:9 countertop:7 diningtable:6 shelf:6 "
        "armchair:3 coffeetable:2 safe:2 sofa:1 ottoman:1",
        "cloth": "bathtubbasin:30 cabinet:20 countertop:17 drawer:15 sinkbasin:8 shelf:4 toilet:3 "
        "laundryhamper:1 cart:1 dresser:1",
        "creditcard": "drawer:24 shelf:13 sidetable:12 desk:9 dresser:9 sofa:7 armchair:6 countertop:5 "
        "coffeetable:5 diningtable:5 ottoman:1 safe:1",
        "cup": "cabinet:23 countertop:21 fridge:21 diningtable:15 sinkbasin:9 microwave:7 sidetable:2 "
        "shelf:2",
        "desklamp": "sidetable:40 desk:29 dresser:21 shelf:9 coffeetable:2",
        "dishsponge": "countertop:25 cabinet:22 drawer:21 diningtable:12 sinkbasin:8 garbagecan:5 shelf:3 "
        "bathtubbasin:2 sidetable:1 toilet:1 cart:1",
        "egg": "fridge:25 countertop:24 sinkbasin:13 garbagecan:13 microwave:12 diningtable:12 sidetable:2",
        "fork": "countertop:44 diningtable:24 drawer:22 sinkbasin:9 sidetable:2",
        "glassbottle": "cabinet:31 countertop:27 diningtable:14 sinkbasin:9 fridge:9 garbagecan:7 shelf:4",
        "handtowel": "handtowelholder:96 countertop:4",
        "kettle": "stoveburner:41 countertop:25 cabinet:24 diningtable:7 sinkbasin:2",
        "keychain": "drawer:23 sidetable:16 shelf:12 desk:12 dresser:11 coffeetable:7 diningtable:5 "
        "armchair:5 sofa:4 safe:3 ottoman:1",
        "knife": "countertop:48 diningtable:25 drawer:21 sinkbasin:5 sidetable:1",
        "ladle": "countertop:41 cabinet:25 drawer:17 diningtable:14 sinkbasin:2",
        "laptop": "bed:47 desk:12 sofa:10 diningtable:9 coffeetable:9 dresser:5 sidetable:3 armchair:2 "
        "ottoman:1",
        "lettuce": "countertop:41 diningtable:28 fridge:23 sinkbasin:5 sidetable:2 garbagecan:1",
        "mug": "countertop:24 coffeemachine:15 cabinet:14 fridge:12 diningtable:10 microwave:6 desk:5 "
        "sinkbasin:5 shelf:4 sidetable:3 dresser:2",
        "newspaper": "sofa:20 coffeetable:18 diningtable:17 sidetable:14 shelf:11 dresser:8 armchair:7 "
        "drawer:2 ottoman:1",
        "pan": "stoveburner:52 countertop:33 cabinet:7 diningtable:4 fridge:4",
        "papertowelroll": "countertop:54 garbagecan:15 diningtable:14 shelf:10 toilet:4 sidetable:2 cart:1",
        "pen": "desk:22 drawer:17 dresser:14 sidetable:13 shelf:13 diningtable:9 countertop:5 coffeetable:3 "
        "garbagecan:2",
        "pencil": "drawer:20 desk:19 sidetable:17 shelf:14 dresser:10 diningtable:8 garbagecan:6 "
        "countertop:4 coffeetable:2",
        "peppershaker": "cabinet:33 countertop:30 diningtable:16 drawer:15 shelf:3 sidetable:2",
        "pillow": "bed:69 sofa:24 armchair:6 ottoman:1",
        "plate": "cabinet:36 countertop:28 diningtable:19 fridge:8 shelf:3 sinkbasin:2 coffeetable:2 "
        "microwave:1 sidetable:1",
        "pot": "stoveburner:73 countertop:14 fridge:4 diningtable:4 cabinet:3 sinkbasin:1",
        "potato": "countertop:28 fridge:26 diningtable:17 sinkbasin:11 microwave:10 garbagecan:6 sidetable:1",
        "remotecontrol": "coffeetable:20 sofa:16 sidetable:13 diningtable:10 drawer:8 armchair:8 dresser:7 "
        "desk:5 shelf:3 ottoman:1 countertop:1",
        "saltshaker": "countertop:32 cabinet:32 diningtable:18 drawer:14 shelf:3 sidetable:2",
        "soapbar": "countertop:20 toilet:16 sinkbasin:15 cabinet:12 bathtubbasin:12 drawer:11 garbagecan:7 "
        "shelf:4 sidetable:2 cart:1",
        "soapbottle": "countertop:32 cabinet:28 diningtable:15 garbagecan:10 toilet:6 shelf:5 drawer:2 "
        "sidetable:1 cart:1",
        "spatula": "countertop:45 diningtable:25 drawer:21 sinkbasin:9 sidetable:1",
        "spoon": "countertop:38 drawer:28 diningtable:22 sinkbasin:11 sidetable:2",
        "spraybottle": "countertop:32 toilet:23 cabinet:18 garbagecan:10 shelf:6 cart:3 diningtable:3 "
        "sidetable:2 dresser:2",
        "statue": "shelf:29 coffeetable:16 countertop:14 diningtable:14 sidetable:12 dresser:7 desk:3 safe:1",
        "tissuebox": "shelf:18 coffeetable:15 drawer:14 countertop:13 diningtable:11 sidetable:11 desk:8 "
        "tvstand:3 cabinet:2 cart:2 dresser:1 toilet:1",
        "toiletpaper": "toilet:23 countertop:23 toiletpaperhanger:12 drawer:11 cabinet:11 garbagecan:9 "
        "shelf:5 dresser:2 cart:2 sidetable:1",
        "tomato": "fridge:33 countertop:30 diningtable:20 garbagecan:9 sinkbasin:7 microwave:2 sidetable:2",
        "towel": "towelholder:97 countertop:3",
        "vase": "shelf:34 countertop:15 cabinet:15 coffeetable:9 diningtable:8 dresser:7 sidetable:6 desk:1 "
        "safe:1",
        "watch": "drawer:23 coffeetable:21 sidetable:16 diningtable:12 dresser:11 shelf:7 desk:3",
        "winebottle": "countertop:37 cabinet:25 diningtable:24 garbagecan:9 shelf:3 fridge:2",
    }.items()
}
"""Object -> receptacle -> how often, in percent, such an object lies there."""

OPENABLE = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
"""Receptacles that are closed at first."""

TOOLS = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""What treats an object -> the receptacle that does it."""

PROPERTIES: dict[str, frozenset[str]] = {
    "cleanable": frozenset(
        _names(
            "apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce mug pan plate "
            "pot potato soapbar spatula spoon tomato"
        )
    ),
    "heatable": frozenset(_names("apple bread cup egg mug plate potato tomato")),
    "coolable": frozenset(
        _names("apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle")
    ),
    "sliceable": frozenset(_names("apple bread egg lettuce potato tomato")),
    "toggleable": frozenset({"desklamp"}),
    "isreceptacleobject": frozenset(_names("bowl box cup mug pan plate pot")),
}
"""Property, as the domain calls it -> the objects that have it."""

FITS: dict[str, frozenset[str]] = {
    receptacle: frozenset(
        name for name, places in USUAL_PLACES.items() if receptacle in places and name != "desklamp"
    )
    for receptacle in sorted({place for places in USUAL_PLACES.values() for place in places})
}
"""Receptacle -> the objects that can be put there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """A kind of room.

    Attributes:
        receptacles: Receptacle -> how many of them there are at most.
        objects: The objects that one finds there.
    """

    receptacles: dict[str, int]
    objects: tuple[str, ...]


ROOMS: dict[str, Room] = {
    "kitchen": Room(
        _weights(
            "cabinet:10 drawer:6 countertop:3 stoveburner:4 diningtable:2 shelf:3 sidetable:1 fridge:1 "
            "microwave:1 sinkbasin:1 coffeemachine:1 toaster:1 garbagecan:1"
        ),
        _names(
            "apple bowl bread butterknife cup dishsponge egg fork glassbottle kettle knife ladle lettuce mug "
            "pan papertowelroll peppershaker plate pot potato saltshaker soapbottle spatula spoon tomato "
            "vase winebottle"
        ),
    ),
    "bathroom": Room(
        _weights(
            "cabinet:4 drawer:4 shelf:3 countertop:2 sinkbasin:2 handtowelholder:2 towelholder:2 toilet:1 "
            "toiletpaperhanger:1 bathtubbasin:1 garbagecan:1 sidetable:1 cart:1"
        ),
        _names(
            "candle cloth dishsponge handtowel soapbar soapbottle spraybottle tissuebox toiletpaper towel"
        ),
    ),
    "bedroom": Room(
        _weights(
            "drawer:8 shelf:6 cabinet:2 sidetable:2 desk:2 bed:2 dresser:2 armchair:2 garbagecan:1 safe:1 "
            "laundryhamper:1"
        ),
        _names(
            "alarmclock book bowl box cd cellphone cloth creditcard desklamp keychain laptop mug pen pencil "
            "pillow statue tissuebox vase watch"
        ),
    ),
    "livingroom": Room(
        _weights(
            "drawer:6 shelf:6 cabinet:4 sidetable:3 armchair:2 sofa:2 coffeetable:2 diningtable:1 dresser:1 "
            "tvstand:1 ottoman:1 desk:1 garbagecan:1"
        ),
        _names(
            "book bowl box creditcard desklamp keychain laptop newspaper pen pencil pillow plate "
            "remotecontrol statue tissuebox vase watch"
        ),
    ),
}
"""Name -> kind of room."""


def pddl_name(kind: str) -> str:
    """The beginning of the domain's id for a kind of thing: basins are named after what holds them.

    >>> pddl_name("sinkbasin"), pddl_name("mug")
    ('sink', 'mug')
    """
    return kind.removesuffix("basin")
