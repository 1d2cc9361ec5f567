"""The small world of the companion: every word list that the grammar draws from. Tables only.

Invariant: the tables decide what the model learns; changing one of them voids the trained
checkpoint (`training.json` records `dialogues.text_digest()`, and a test compares it with the
code).
"""

COMPANION = "Pip"

SYSTEM_PROMPTS = (
    "You are Pip, a kind companion.",
    "You are Pip, a small and friendly companion who listens.",
    "You are a helpful companion. Keep your answers short.",
)

# feeling -> group; a group decides tone, questions and tips
FEELINGS = {
    "sad": "sad", "down": "sad", "lonely": "sad", "unhappy": "sad", "disappointed": "sad", "bad": "sad",
    "nervous": "fear", "worried": "fear", "scared": "fear", "anxious": "fear", "afraid": "fear",
    "angry": "anger", "annoyed": "anger", "frustrated": "anger", "upset": "anger", "jealous": "anger",
    "tired": "tired", "exhausted": "tired", "stressed": "tired", "overwhelmed": "tired",
    "bored": "bored", "restless": "bored",
    "happy": "happy", "glad": "happy", "proud": "happy", "excited": "happy", "grateful": "happy",
    "good": "happy", "great": "happy", "better": "happy",
    "calm": "calm", "relaxed": "calm", "relieved": "calm", "fine": "calm", "okay": "calm",
}  # fmt: skip
POSITIVE_GROUPS = ("happy", "calm")

TIPS = {
    "sad": ("call a good friend", "take a slow walk outside", "listen to soft music", "write down your thoughts"),
    "fear": ("breathe slowly for a minute", "name five things that you can see", "plan one small step", "talk to somebody you trust"),
    "anger": ("count slowly to ten", "take a short break", "say calmly what you need", "go for a run"),
    "tired": ("go to bed early tonight", "drink some water", "do only one thing at a time", "rest for a little while"),
    "bored": ("try something new", "draw a small picture", "read a good book", "cook your favorite meal"),
    "happy": ("share it with a friend", "write it down for later", "enjoy this moment", "celebrate a little"),
    "calm": ("enjoy the quiet", "stretch for a minute", "drink a cup of tea", "look out of the window"),
}  # fmt: skip

NAMES = (
    "Mia", "Tom", "Anna", "Ben", "Lena", "Paul", "Sara", "Max", "Nora", "Leo", "Emma", "Finn", "Ida", "Noah",
    "Zoe", "Luis", "Maya", "Omar", "Ruth", "Sam", "Tara", "Ivan", "Jana", "Karl", "Lucy", "Nina", "Oscar",
    "Rosa", "Theo", "Vera", "Will", "Yara", "Aisha", "Bruno", "Clara", "David", "Elif", "Felix", "Greta",
    "Hugo", "Iris", "Jonas", "Kim", "Mona", "Olga", "Pablo", "Quinn", "Ravi", "Sofia", "Uma",
)  # fmt: skip
# made-up names teach the model to copy a name that it has never seen
NAME_HEADS = ("Ba", "Ce", "Do", "Fa", "Gi", "Ha", "Jo", "Ka", "Li", "Mo", "Ne", "Pe", "Ri", "Su", "Ta", "Vi", "Wa", "Ze")  # fmt: skip
NAME_MIDDLES = ("", "la", "ri", "no", "mi", "da", "ve", "sho")
NAME_TAILS = ("n", "ra", "lo", "x", "ka", "ne", "th", "s", "bel", "dor")

# slots of events; every entry reads the same in the first and the second person
SLOTS = {
    "person": (
        "sister", "brother", "mother", "father", "friend", "boss", "neighbor", "teacher", "grandmother",
        "grandfather", "cousin", "partner", "son", "daughter", "aunt", "uncle", "roommate", "doctor",
    ),
    "item": ("keys", "phone", "wallet", "bag", "ring", "book", "bike", "glasses", "umbrella", "watch", "camera", "guitar"),
    "pet": ("dog", "cat", "rabbit", "bird", "hamster", "horse"),
    "test": ("exam", "driving test", "math test", "piano exam", "job interview", "final exam"),
    "ride": ("bus", "train", "flight", "ferry"),
    "occasion": ("work", "school", "dinner", "the meeting", "the wedding"),
    "food": ("soup", "bread", "a cake", "pasta", "cookies", "rice", "a pie"),
    "place": ("Paris", "the sea", "the mountains", "the city", "Berlin", "the park", "the lake", "Japan"),
    "gift": ("a book", "flowers", "a letter", "a scarf", "chocolate", "a plant"),
    "game": ("chess", "football", "tennis", "card"),
    "skill": ("swim", "cook", "drive", "dance", "paint", "sing"),
    "project": ("book", "homework", "garden", "painting", "report"),
}  # fmt: skip

# (kind, first person, second-person noun phrase); the kind selects a row of ratings.BASE
EVENTS = (
    ("loss", "I lost my {item}", "losing your {item}"),
    ("loss", "somebody stole my {item}", "having your {item} stolen"),
    ("loss", "I lost my job", "losing your job"),
    ("loss", "my {pet} ran away", "your {pet} running away"),
    ("failure", "I failed my {test}", "failing your {test}"),
    ("failure", "I burned the {food}", "burning the {food}"),
    ("failure", "I made a mistake at {occasion}", "your mistake at {occasion}"),
    ("failure", "I was late for {occasion}", "being late for {occasion}"),
    ("failure", "I missed my {ride}", "missing your {ride}"),
    ("failure", "I broke my {item}", "breaking your {item}"),
    ("conflict", "I had a fight with my {person}", "the fight with your {person}"),
    ("conflict", "my {person} yelled at me", "your {person} yelling at you"),
    ("conflict", "my {person} lied to me", "your {person} lying to you"),
    ("hurt", "my {person} ignores me", "your {person} ignoring you"),
    ("hurt", "my {person} forgot my birthday", "your {person} forgetting your birthday"),
    ("hurt", "I miss my {person}", "missing your {person}"),
    ("hurt", "my {person} moved to {place}", "your {person} moving to {place}"),
    ("worry", "my {pet} is sick", "your {pet} being sick"),
    ("worry", "my {person} is sick", "your {person} being sick"),
    ("worry", "my {test} is tomorrow", "your {test} tomorrow"),
    ("strain", "I have too much work", "having too much work"),
    ("strain", "I did not sleep last night", "not sleeping last night"),
    ("strain", "I had a long day at {occasion}", "your long day at {occasion}"),
    ("win", "I passed my {test}", "passing your {test}"),
    ("win", "I won a {game} game", "winning a {game} game"),
    ("win", "I learned to {skill}", "learning to {skill}"),
    ("win", "I finished my {project}", "finishing your {project}"),
    ("win", "I got a new job", "getting a new job"),
    ("win", "I baked {food} for my {person}", "baking {food} for your {person}"),
    ("gift", "my {person} gave me {gift}", "your {person} giving you {gift}"),
    ("gift", "I found my {item}", "finding your {item}"),
    ("gift", "I got a new {pet}", "getting a new {pet}"),
    ("bond", "my {person} hugged me", "your {person} hugging you"),
    ("bond", "I went to {place} with my {person}", "going to {place} with your {person}"),
    ("bond", "my {person} is coming to visit", "your {person} coming to visit"),
    ("bond", "I made a new friend", "making a new friend"),
)
POSITIVE_KINDS = ("win", "gift", "bond")

HOBBIES = {
    "paint": "painting", "swim": "swimming", "read": "reading", "cook": "cooking", "run": "running",
    "dance": "dancing", "sing": "singing", "draw": "drawing", "knit": "knitting", "hike": "hiking",
    "bake": "baking", "play chess": "playing chess", "play the piano": "playing the piano",
    "watch birds": "watching birds", "ride my bike": "riding your bike", "take photos": "taking photos",
}  # fmt: skip
FREQUENCIES = ("every day", "every week", "on weekends", "once a month", "in the evening", "not often")  # fmt: skip

# first person -> second person
THOUGHTS = {
    "I feel alone": "you feel alone",
    "I can not sleep": "you can not sleep",
    "nobody understands me": "nobody understands you",
    "I blame myself": "you blame yourself",
    "I do not know what to do": "you do not know what to do",
    "I have no time": "you have no time",
    "it happened so fast": "it happened so fast",
    "nobody helped me": "nobody helped you",
    "I have to start again": "you have to start again",
    "I can not talk about it": "you can not talk about it",
}
BEST_PARTS = ("the music", "the food", "the quiet", "the view", "the laughter", "the surprise", "the people", "the sun")  # fmt: skip
NEEDS = ("a hug", "some rest", "a good friend", "more time", "a long walk", "a cup of tea", "some quiet", "a holiday")  # fmt: skip
SINCES = ("since yesterday", "since this morning", "since last week", "since Monday", "for a month", "for a long time")  # fmt: skip

JOKES = (
    "Why did the bicycle fall over? It was two tired.",
    "What do you call a sleeping dog? A bark that rests.",
    "Why was the book sad? It had too many problems on page ten.",
    "What did one wall say to the other wall? We meet at the corner.",
    "Why did the tomato turn red? It saw the salad dressing.",
)

# questions from outside of this world: the companion must say so instead of making something up
OUTSIDE_SUBJECTS = (
    "the capital of {place}", "the price of gold", "the weather on Mars", "the speed of light", "quantum physics",
    "the stock market", "the last election", "a recipe for {food}", "the history of Rome", "a prime number",
    "the best phone", "football results", "the meaning of {word}", "tax law", "this code", "{word} and {word}",
)  # fmt: skip
OUTSIDE_FRAMES = (
    "What is {s}?", "Tell me about {s}.", "Can you explain {s}?", "Write an essay about {s}.", "Do you know {s}?",
    "How does {s} work?", "Translate {s}.", "Who invented {s}?", "I want to learn about {s}.", "{s}?", "{word} {word} {word}",
)  # fmt: skip
OUTSIDE_WORDS = (
    "lorem", "kernel", "zebra", "matrix", "tariff", "volcano", "pixel", "senate", "copper", "enzyme", "blorp",
    "qwerty", "engine", "orbit", "compiler", "dinosaur", "syntax", "penguin", "vector", "castle", "été", "über",
    "привет", "日本語", "你好", "🙂", "🚀", "x = 3", "12 + 30", "sql", "naïve", "αβγ",
)  # fmt: skip
