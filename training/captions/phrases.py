"""The words around the names: openings, adjectives, places, styles and fillers of real prompts."""

from __future__ import annotations

# place -> centre of the object as a share of width and height, phrases
PLACES = {
    "left": ((0.27, 0.5), ("on the left", "at the left", "on the left side", "to the left", "left")),
    "right": ((0.73, 0.5), ("on the right", "at the right", "on the right side", "to the right", "right")),
    "top": ((0.5, 0.27), ("at the top", "on top", "in the upper half", "at the upper edge")),
    "bottom": ((0.5, 0.73), ("at the bottom", "in the lower half", "at the lower edge")),
    "top left": ((0.27, 0.27), ("in the top left corner", "at the top left", "in the upper left corner")),
    "top right": ((0.73, 0.27), ("in the top right corner", "at the top right", "in the upper right corner")),
    "bottom left": ((0.27, 0.73), ("in the bottom left corner", "at the bottom left", "in the lower left corner")),
    "bottom right": ((0.73, 0.73), (
        "in the bottom right corner", "at the bottom right", "in the lower right corner",
    )),
    "centre": ((0.5, 0.5), ("in the center", "in the centre", "in the middle", "centered")),
}  # fmt: skip

# size -> range of the object's share of the image's width, words
SIZES = {
    "small": ((0.3, 0.44), ("small", "tiny", "little")),
    "large": ((0.9, 1.02), ("large", "big", "huge", "giant", "close-up of a")),
}

# The objects that people ask for most.
FAVOURITES = frozenset((
    "cat", "dog", "bird", "fish", "horse", "rabbit", "bear", "lion", "tiger", "elephant", "monkey", "fox", "wolf",
    "owl", "penguin", "dragon", "unicorn", "dinosaur", "butterfly", "bee", "frog", "turtle", "snake", "whale",
    "dolphin", "shark", "octopus", "panda", "pig", "cow", "sheep", "chicken", "duck", "mouse", "spider", "snail",
    "crab", "apple", "banana", "orange", "strawberry", "cherry", "grapes", "lemon", "watermelon", "pineapple", "pear",
    "peach", "tomato", "carrot", "mushroom", "bread", "cheese", "egg", "pizza", "hamburger", "hot dog", "french fries",
    "taco", "sushi", "doughnut", "cookie", "birthday cake", "ice cream cone", "cupcake", "chocolate bar", "coffee",
    "tea", "car", "bus", "train", "truck", "fire truck", "bicycle", "motorcycle", "airplane", "helicopter", "rocket",
    "ship", "sailboat", "tractor", "house", "castle", "tent", "tree", "palm tree", "cactus", "flower", "rose",
    "sunflower", "tulip", "sun", "moon", "star", "cloud", "rainbow", "snowflake", "snowman", "mountain", "volcano",
    "globe", "heart", "red heart", "smiley face", "sad face", "robot", "alien", "ghost", "skull", "wizard", "mermaid",
    "astronaut", "princess", "crown", "guitar", "piano", "drum", "camera", "book", "key", "light bulb", "umbrella",
    "clock", "phone", "laptop", "pencil", "hammer", "sword", "gift", "balloon", "pumpkin", "christmas tree",
    "teddy bear", "soccer ball", "basketball", "hat", "shoe", "glasses", "cool face",
))  # fmt: skip

CONJUNCTIONS = ("and", "and", "and", "next to", "beside", "with", "near", "together with")

OPENINGS = (
    "a drawing of", "an illustration of", "a picture of", "an image of", "a photo of", "a painting of", "an emoji of",
    "an icon of", "a cartoon of", "a sketch of", "clip art of", "a sticker of", "a portrait of",
    "a digital painting of",
    "draw", "please draw", "paint", "make", "generate", "create", "show me", "i want", "can you draw", "a render of",
    "a photograph of", "a simple drawing of", "a beautiful picture of", "the image of", "a logo of", "vector art of",
)  # fmt: skip

STYLES = (
    "emoji", "icon", "sticker", "flat design", "flat style", "vector art", "clip art", "cartoon style", "digital art",
    "highly detailed", "detailed", "4k", "8k", "high quality", "high resolution", "masterpiece", "best quality",
    "minimalist", "simple", "cute", "colorful", "vivid colors", "bright colors", "soft lighting", "cinematic lighting",
    "dramatic lighting", "golden hour", "photorealistic", "realistic", "oil painting", "watercolor", "pixel art",
    "anime style", "concept art", "trending", "award winning", "sharp focus", "fantasy art", "studio lighting",
    "isolated", "no text", "illustration", "drawing", "professional photography", "ultra hd", "3d render",
)  # fmt: skip

ADJECTIVES = (
    "majestic", "beautiful", "cute", "pretty", "lovely", "nice", "shiny", "old", "new", "young", "funny", "happy",
    "friendly", "fluffy", "fresh", "delicious", "tasty", "juicy", "wild", "magical", "mysterious", "ancient", "modern",
    "elegant", "colorful", "bright", "single", "simple", "realistic", "perfect", "gorgeous", "epic", "brave",
    "adorable",
    "sweet", "sleepy", "fast", "strong", "wooden", "metal", "glass", "crystal", "plastic", "futuristic", "vintage",
    "smiling", "angry-looking", "sleek", "glowing", "sparkling", "broken", "round", "fierce", "playful",
    "tall", "long", "wise", "proud", "powerful", "stunning", "cool", "strange", "lonely", "famous", "cartoon", "toy",
)  # fmt: skip

ACTIVITIES = (
    "flying", "flying over", "sitting", "standing", "running", "jumping", "sleeping", "floating", "walking", "resting",
    "looking at the camera", "waiting", "dancing", "playing", "driving", "lying", "swimming", "eating", "smiling",
    "soaring", "hiding", "shining", "looking up", "flying through the air", "moving fast", "landing", "rising",
)  # fmt: skip

CLAUSES = (
    "with a beautiful view", "in a fantasy world", "in a magical kingdom", "full of color", "with soft light",
    "with golden light", "seen from the front", "seen from the side", "in the style of a famous artist", "from above",
    "in a fairy tale", "for my website", "for a birthday card", "as a logo", "with lots of detail", "in a dream",
    "with a soft shadow", "surrounded by light", "in the distance", "for children", "of a story", "with magic",
    "in a quiet place", "between the hills", "on a lovely day", "at home",
    "with a long history", "in the world", "that everyone loves", "for a game", "in high detail", "on its own", "alone",
    "in spring", "in summer", "in autumn", "with reflections", "in the background",
    "in the foreground", "very close", "far away", "made of glass", "with a friend", "on a journey", "in an old book",
)  # fmt: skip

NONSENSE_SYLLABLES = (
    "ka", "zo", "mi", "ru", "ta", "vel", "dor", "shi", "ran", "quo", "lup", "fen", "gri", "bel", "nax", "wor", "thi",
    "pex",
    "oma", "jin",
)  # fmt: skip
