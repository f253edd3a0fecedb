"""The words by which an answer names a colour, a shape, a number, a direction or a pitch.

Text is read in lower case, in the forms that NFKC gives; Chinese is read without word borders.
What stands here beside the probes' own answers (grey, oval, still and so on) is there so that an
answer that names it too is seen to name two things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# A value, its English words (regular expressions, between word borders) and its Chinese ones.
Words = dict[str, tuple[str, str]]

COLOURS: Final[Words] = {
    "red": ("red|crimson|scarlet", "红"),
    "green": ("green", "绿"),
    "blue": ("blue|navy", "蓝"),
    "yellow": ("yellow|gold", "黄"),
    "orange": ("orange", "橙黄|橘黄|橙|橘"),
    "purple": ("purple|violet", "紫罗兰|紫"),
    "pink": ("pink", "粉红|粉"),
    "brown": ("brown", "棕|褐|咖啡色"),
    "black": ("black", "黑"),
    "white": ("white", "白"),
    "grey": ("gr[ae]y|silver", "灰|银色"),
    "cyan": ("cyan|turquoise|teal|aqua", "青"),
    "magenta": ("magenta|fuchsia", "品红|洋红"),
}
SHAPES: Final[Words] = {
    "circle": (
        "circles?|circular|balls?|dis[ck]s?|dots?|round|spheres?|spherical",
        "圆形|圆圈|圆球|圆点|圆盘|圆|球",
    ),
    "square": ("squares?", "正方形|四方形|方形|方块"),
    "triangle": ("triangles?|triangular", "三角形|三角"),
    "star": ("stars?|pentagrams?", "五角星|星形|星星|星"),
    "rectangle": ("rectang(?:les?|ular)", "长方形|矩形"),
    "ellipse": ("ovals?|ellipses?|elliptical", "椭圆形|椭圆"),
    "diamond": ("diamonds?|rhomb(?:us|i)", "菱形"),
    "other": (
        "pentagons?|hexagons?|octagons?|hearts?|cross(?:es)?|arrows?|crescents?|trapezoids?",
        "五边形|六边形|八边形|心形|十字|箭头|梯形",
    ),
}
DIRECTIONS: Final[Words] = {
    "left": ("left(?:wards?)?", "[向往朝]左(?![上下])|[到至]左(?!右)|左移"),
    "right": ("right(?:wards?)?", "[向往朝]右(?![上下])|[到至]右|右移"),
    "up": ("up(?:wards?)?|ris(?:es?|ing)|ascend(?:s|ing)?", "向上|往上|朝上|上移|上升"),
    "down": (
        "down(?:wards?)?|fall(?:s|ing)?|descend(?:s|ing)?|sink(?:s|ing)?",
        "向下|往下|朝下|下移|下降|下落",
    ),
    "still": (
        (
            "still|stationary|motionless|diagonal(?:ly)?"
            "|(?:upper|lower|top|bottom)[ -](?:left|right)(?! (?:corner|side|edge|part|area|of))"
        ),
        "静止|不动|左上|右上|左下|右下|斜|对角",
    ),
}
PITCHES: Final[Words] = {
    "higher": (
        "higher|high|ris(?:es?|ing)|ascend(?:s|ing)?|increas(?:es|ing)|goes up",
        "高|上升",
    ),
    "lower": (
        "lower|low|deeper|fall(?:s|ing)?|drops?|descend(?:s|ing)?|decreas(?:es|ing)|goes down",
        "低|下降",
    ),
    "same": ("same|equal|identical", "相同|一样|同样"),
}
NUMBERS: Final[Mapping[str, int]] = {
    word: number
    for number, words in enumerate(
        (
            "zero 零", "one single once 一", "two twice 二 两", "three 三", "four 四", "five 五",
            "six 六", "seven 七", "eight 八", "nine 九", "ten 十", "eleven", "twelve",
        )
    )
    for word in words.split()
}  # fmt: skip

# What is counted; with this word behind it, a number is a count.
COUNTED: Final = (
    r"beep(?:s|ing)?|bleeps?|blips?|tones?|sounds?|chirps?|pulses?|pings?|dings?|signals?|times"
)
COUNTED_ZH: Final = "声|次|下|响|个?(?:[短长清晰独立单的]*)(?:哔|嘀|滴|嘟|蜂鸣|提示|声音|音)"

# ------------------------------------------------------------------------ how it is said

# What takes back the value that follows, up to where something else begins.
NEGATIONS: Final = (
    r"\b(?:not(?! only)|no|neither|nor|never|without|rather than|instead of|other than|unlike"
    r"|as opposed to|unlikely|\w+n't)\b|并?不(?:是|为|会|向|往|朝)|并非|而非|没有|无"
)
REVERSALS: Final = (
    r"\b(?:but|however|instead(?! of)|is|are|was|were|it's|there's|shows|see|hear|count)\b"
    r"|而是|但|是(?!不)"
)
# What makes the value that follows a guess.
HEDGES: Final = (
    r"\b(?:maybe|perhaps|possibly|probably|presumably|likely|might|may|could|either"
    r"|i(?: would|'d)? guess|my (?:best )?guess|i suspect)\b|可能|也许|或许|大概|似乎|好像|猜"
)
# What makes the number that follows a guess.
ESTIMATES: Final = (
    r"\b(?:about|around|roughly|approximately|nearly|almost|over|at least|at most|more than"
    r"|fewer than|less than|up to)\b|大约|约|至少|最多|超过"
)
# What makes the whole answer worth nothing: its author does not know.
DISCLAIMERS: Final = (
    r"\b(?:can(?:'t|not| not)|could(?:n't| not)|unable to|not able to|do(?:n't| not)"
    r"|did(?:n't| not)|am not)(?: \w+ly)?"
    r" (?:see|hear|view|listen|watch|access|process|perceive|analy[sz]e|determine|tell|identify"
    r"|help|assist|play|count|know|have|detect|find|open)\w*\b"
    r"(?! (?:an?y? ?)?(?:other|else|more|further))"
    r"|\bno (?:image|picture|photo|audio|sound|video|clip|media|file|attachment)s?(?: \w+)?"
    r" (?:was|were|has|have|is|are)? ?(?:been )?(?:attached|provided|uploaded|given|included"
    r"|shared|sent|supplied|present)"
    r"|\bi (?:see|hear|have) no\b"
    r"|\b(?:not sure|unsure|uncertain|unclear|hard to (?:say|tell)|(?:wild|just a) guess)\b"
    r"|无法|看不到|看不见|听不到|听不见|听不清|不确定|不清楚|不知道|没有(?:收到|提供|上传|看到|听到)"
)
# What an answer is announced by; then only what follows it is read.
ANNOUNCED: Final = r"(?:the |my )?(?:final )?answers?(?: is| are)?\s*:?|答案(?:是|为)?\s*:?"

# ----------------------------------------------------- what only looks like it, by fact

_ANY_COLOUR: Final = "|".join(english for english, _ in COLOURS.values())
_ANY_COLOUR_ZH: Final = "|".join(chinese for _, chinese in COLOURS.values())
_GROUND: Final = r"(?:back(?:ground|drop)|canvas|surface|field|ground)"
# A colour of the ground is none of the shape, and the form of the picture is no shape.
NOT_COLOURS: Final = (
    rf"\b(?:on|against|over|with|and|has|set in)? ?(?:an? |the |its )?"
    rf"(?:(?:plain|solid|uniform|simple|flat|very|light|dark|pale|bright|almost|nearly|neutral"
    rf"|off|medium|square|or|to|{_ANY_COLOUR})(?:ish)?[ ,-]+)+{_GROUND}\b"
    rf"|\b{_GROUND}(?: colou?r)?(?: is|:| of| appears| being| in)*(?: an?)?"
    rf"(?: (?:plain|solid|uniform|light|dark|pale|bright|very|almost|{_ANY_COLOUR})\b,?)+"
    rf"|\b(?:on|against|over) (?:an? )?(?:(?:plain|solid|light|dark|pale)[ -])*(?:{_ANY_COLOUR})"
    rf"(?=\s*(?:[.,;]|$))"
    rf"|(?:浅|深|淡|暗|亮|纯)*(?:{_ANY_COLOUR_ZH})色?的?(?:纯色)?(?:背景|底色|底|画布)"
    rf"|背景(?:颜色)?(?:是|为|呈)?(?:浅|深|淡|暗|亮|纯)*(?:{_ANY_COLOUR_ZH})色?"
)
NOT_SHAPES: Final = r"\bsquare (?:image|picture|frame|canvas|format|background)\b"
_PLACE: Final = r"(?:left|right|top|bottom)"
_SIDE: Final = r"(?:[ -]hand)?(?: (?:side|edge|end|part|corner|half|border))?(?: of (?:the )?\w+)?"
# From one side to another: the second counts. Then: where it is or starts is no direction.
JOURNEY: Final = (
    rf"(?:\bfrom )?(?:the )?(?:far )?\b{_PLACE}{_SIDE}"
    rf"[ -]*(?:,? ?(?:and )?(?:\w+ )?to(?:wards?)?|->|→)[ -]*(?:the )?(?:far )?({_PLACE})\b{_SIDE}"
)
JOURNEY_ZH: Final = r"从?[左右上下](?:侧|边|方|端)?(?:移动|运动)?(?:向|往|到|至|朝)([左右上下])"
TOWARDS_END: Final = r"\bto(?:wards?)? the (top|bottom)\b"
NOT_DIRECTIONS: Final = (
    r"\b(?:starts?|starting|begins?|beginning|enters?|entering|initially|from|leav(?:es|ing))"
    rf"(?: (?!mov|go|travel|to\b|toward|head|shift|drift|slid)\w+){{0,5}}? {_PLACE}\b{_SIDE}"
    rf"|\b(?:on|at|in|near|along) (?:the )?(?:far )?{_PLACE}\b(?! direction){_SIDE}"
    r"|\b(?:end|made|speed|sum|show|pick|slow|break|count|add)(?:s|ed|ing|ding|ming)? (?:up|down)\b"
    r"|\bright (?:away|now|answer)\b|\ball right\b"
    # The question, said once more.
    r"|\bleft, right, up,? or down\b|左[、,]右[、,]上(?:[、,]|还是|或)下"
)
# From one pitch to another: the second counts.
PITCH_CHANGE: Final = (
    r"\b(?:from )?(?:an? )?(?:low|high)(?:er)?(?: \w+){0,2} to (?:an? )?(low|high)(?:er)?\b"
    r"|[由从]?[低高]音?(?:到|变|转|至|向)([低高])"
)
NOT_PITCHES: Final = r"\b(?:higher or (?:is it )?lower|lower or higher)\b|更?高还是更?低"
# Which tone a clause is about, unless it only compares with it.
TONE: Final = r"(?:(than|to|with|比|于)(?: the|在)? ?)?(first|second|第一|第二)"
FIRST: Final = frozenset({"first", "第一"})
OTHER_PITCH: Final[Mapping[str, str]] = {"higher": "lower", "lower": "higher"}
# How one beep is said without a number.
SINGLE: Final = r"\ban? (?:[\w-]+ ){0,2}?(?:beep|tone|chirp|pulse)\b"
# Times, lengths, pitches, what is numbered, and the word "one" where it counts nothing.
NOT_NUMBERS: Final = (
    r"\b\d+:\d\d(?:\.\d+)?\b|\b\d+\.\d+\b"
    r"|\b(?:\d+|one|two|three|four|five|half a)[ -]?(?:k?hz|hertz|kilohertz|m?s|secs?|seconds?"
    r"|milliseconds?|db|decibels?|%|percent|minutes?|bits?)(?!\w)"
    r"|\d+\s*(?:赫兹|毫秒|秒|分贝)|[一二两三四五]秒"
    r"|\b(?:beep|tone|sound|number|no\.?|#)\s*#?\d+\b|第\s*[\d一二两三四五六七八九十]+"
    r"|\b(?:\w+ )?(?:hundred|thousand|million|dozen)\b"
    r"|\bone (?:after|by|of|at a time|second|can|another)\b"
    r"|\b(?:each|this|that|every|no|last|first|second|third|another|the) one\b|\bone word\b"
)

# ------------------------------------------------------------------------------ topics

# Of which medium a clause speaks, where a question is about several.
TOPICS: Final[Mapping[str, str]] = {
    "video": r"\b(?:video|clip|film|footage|mov\w+|motion|direction|travel\w*|slid\w+)\b"
    "|视频|移动|运动|方向",
    "audio": rf"\b(?:audio|hear\w*|{COUNTED})\b|音频|声|响|听",
    "image": r"\b(?:image|picture|photo\w*|drawing)\b|图",
}
