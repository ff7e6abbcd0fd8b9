"""Texts that are hard to split into words: hand-made and random. Used by eval/lucene_tokens.py."""

from __future__ import annotations

import random
from collections.abc import Iterator

from rankpipe.index import word_break

HAND_MADE = [
    "",
    " \t\r\n",
    "The cats' toys, the cat's toy, the CAT'S toy, cat’s, cat＇s, cat‘s, cat`s, 's, s's, a's",
    "rock'n'roll o'clock d'être l’été qu’il 'quoted' ''twice'' it's isn't y'all'd've O’Neill’s",
    "possibly psychology us ably analogy by is was dies ties lying agreed feed skies happiness relational",
    "1,000.5 1.000,5 1'000 1;2 1:2 1/2 .5 5. 1..2 1,,2 -3 +4 3e-10 0x1F 10% $5 1_000 1,a a,1 1.a a.1",
    "3.14.15 192.168.0.1 12:30:45 2024-01-31 31/12/2023 (555)123-4567 1st 2nd B12 H2O x2 2x",
    "a.b.c U.S.A. e.g. i.e. etc... Ph.D. J.R.R. node.js .net C# C++ F# a..b a.:b a.'b",
    "first.last@example.org mailto:someone+tag@mail.example.co.uk <x@y.z> @handle #hashtag",
    "https://www.example.org:8080/a_b/c-d.html?x=1&y=%20#top ftp://host/~user C:\\dir\\file.txt /usr/lib/x86_64",
    "_ __ ___ _a a_ a__b _1_ a_1.b_2 __init__ snake_case_name a_.b a._b 1_.2 1._2 _:_ \u203fa\u2040b\u2054",
    "naïve cafe\u0301 café CAFÉ Ångström A\u030angstro\u0308m ﬁne ﬂow Straße STRASSE ẞ ſ ĳ ǆ ǅ Ǆ",
    "\u0301abc a\u0301\u0301\u0301b \u0301 \u0301\u0301 1\u03011 ア\u0301イ 日\u0301本 あ\u0301い ก\u0301ข _\u0301a _\u0301",
    "İstanbul ISTANBUL ıI İİ I\u0307 Iİıi DİYARBAKIR'IN",
    "ΟΔΥΣΣΕΥΣ Οδυσσεύς ΣΣ Σ ΑΣ. ΑΣΑ ὈΔΥΣΣΕΎΣ ᾼ ᾳ Ω Ω K Å",
    "Привет, МИР! Ёлка ёлка що'б м’ята Київ",
    "日本語の文章です。 中文分词 漢字かな交じり文 々〇〆ヶ 㐀𠀀𠮷 豈更 ⼀⺀ 〡〢〣",
    "ひらがな カタカナ ﾊﾝｶｸ ｶﾞ コンピューター ー・ー アｱア カ゛ゝゞヽヾ ㌀㍐㋐㋾ 𛀀𛀁 アa アa1 a_ア ア_ア 1ア",
    "한국어 텍스트 한국어ABC 한1글 ㄱㄴㄷ ᄒ\u1161ᆫ ㈀㉠ ﾡﾢ 大한민국",
    "ภาษาไทยไม่มีวรรค ๑๒๓ ไทย123 abcไทย ເດືອນ ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ ัก aั 1ัก _ัก",
    "עברית צה\"ל צה״ל ג'ירפה ג׳ירפה א' א\" א'ב א''ב א\"ב\"ג ב.א\"ג בא\"ג ב.א'ג' א'1 א'a א\"a א\"1 a'א a\"א",
    "שָׁלוֹם א\u05b0'ב א\u05b0\"\u05b0ב א'_ א'_א א\"_א א.ב א:ב א,ב יִ שׁ",
    "العربية مرحبًا بالعالم ١٢٣ ١٬٢٣٤٫٥ لا\u200cنه می\u200cخواهم ـــ اللّٰه ۱۲۳ العربية123",
    "हिन्दी भाषा क्षत्रिय १२३ বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ગુજરાતી ਪੰਜਾਬੀ བོད་ཡིག",
    "Հայերեն ՀԱՅԵՐԵՆ և՛ ქართული ᲥᲐᲠᲗᲣᲚᲘ ႠႡ አማርኛ ᏣᎳᎩ ꮳꮃꭹ ⴰⵎⴰⵣⵉⵖ ᐃᓄᒃᑎᑐᑦ ᠮᠣᠩᠭᠣᠯ",
    "co\u00adoperate soft\u00ad \u00adhyphen zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom a\u200e\u200fb \u202aa\u202c",
    "non\u00a0breaking thin\u2009space nar\u202frow ideographic\u3000space line\u2028para\u2029next\u0085end a\u180eb",
    "em—dash en–dash hy-phen hyph\u2010en minus−sign swung~dash a•b a·b l·l a…b a‥b a․b a‧b",
    "😀 😀😀 a😀b 1😀2 😀_😀 ☺ ☺\ufe0f ☺\ufe0e ❤\ufe0f ❤ © ® ™ ©\ufe0f ™\ufe0f 〰 〰\ufe0f 〽 ‼ ⁉\ufe0f ↔ ▶\ufe0f",
    "👩\u200d👩\u200d👧\u200d👦 👩\u200d❤\ufe0f\u200d💋\u200d👨 🏳\ufe0f\u200d🌈 👨🏽\u200d🚀 👍🏿 👍🏿👍 🏿 🏿🏿 a🏿 ☝🏻 ☝\ufe0f🏻 🧑🏻\u200d🤝\u200d🧑🏿",
    "🇩🇪 🇩🇪🇫🇷 🇩🇪🇫 🇩 a🇩🇪b 🇩\u200d🇪 🇩\u0301🇪 🇩 🇪 🇩🇪\ufe0f 🇩🇪\u200d🇫🇷",
    "1\ufe0f\u20e3 #\ufe0f\u20e3 *\ufe0f\u20e3 #\u20e3 *\u20e3 9\u20e3 # * #\ufe0f #\u0301\u20e3 #\ufe0e\u20e3 a\u20e3 #1\u20e3 ##\u20e3 #\u20e3\u20e3\u0301",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🏴\U000e0067\U000e007f 🏴\ufe0f\U000e0067\U000e007f 🏴\ufe0f\U000e0067 a\U000e0067b",
    "\u200d😀 \u200d\u200d😀 😀\u200d 😀\u200d\u200d😀 😀\ufe0f\u200d\u200d😀 😀\u200da a\u200d😀 \u200d \u200da \u200d🏿 😀\ufe0f\u200d🏿 😀\ufe0f\u200d\u200d🏿",
    "ℹ ℹ\ufe0f ℹa aℹ ℹ\u200dℹ ℹ\u200d😀 ℹ\u200dℹ\u200d😀 ℹ\u200dℹa\u200d😀 😀\u200dℹa \u200dℹa Ⓜ Ⓜ\ufe0f ⓜ 🅰 🅱b 🅾\u200d😀 🅰🅱",
    "𝐚𝐛𝐜 𝐀𝐁𝐂 𝟏𝟐𝟑 𝟏.𝟐 𝐚.𝐛 𝓗𝓮𝓵𝓵𝓸's 𐐀𐐨 𐐀𐐁s 𝐝s 𝐝ing 𝐚ed a𝐝s be𝐝e 𞤀𞤢 𐤀𐤁 𒀀𒀁 𓀀𓀁",
    "x" * 255 + " " + "x" * 256 + " " + "x" * 300 + " " + "xy" * 300,
    "s" * 254 + "'s and " + "s" * 253 + "'s and " + "s" * 255 + "'s",
    "_" * 255 + "a " + "_" * 254 + "a " + "_" * 300 + "a " + "_" * 300 + " " + "a" * 200 + "." + "b" * 200,
    "𝐱" * 127 + " " + "𝐱" * 128 + " " + "a" + "𝐱" * 127 + " " + "aa" + "𝐱" * 127 + " " + "𝐱" * 300,
    "a" + "\u0301" * 300 + "b " + "\u200d" * 300 + "😀 " + "日" + "\u0301" * 300,
    "1" * 255 + "1 " + "1," * 200 + "1 " + "ก" * 300 + " " + "カ" * 300 + " " + "א'" * 200,
    "😀\u200d" * 100 + "😀 " + "🇩🇪" * 100 + " " + "#" + "\u0301" * 300 + "\u20e3",
    "nul\x00nul \x01\x02 bell\x07 escape\x1b[0m delete\x7f \x80\x9f",
    "lone\ud800high lone\udc00low \ud83d \ude00 a\udfffb \ud800 x\ud800 .",
    "private\ue000use noncharacter\ufffe\uffff\ufdd0 replacement\ufffdcharacter object\ufffcreplacement \U000f0000 \U0010ffff",
    "①②③ ⅣⅤ ½ ¾ x² H₂O 10⁻³ ªº µm μm Å Ω ℃ № ™ ﷺ ㎏ ㏒ ⓐⓑ 🄰 🄐",
    "fullwidth ＡＢＣ ａｂｃ １２３ １．２ Ａ．Ｂ Ａ：Ｂ １，２ ＿Ａ＿ ＡＢ＇Ｓ ＡＢ＇ｓ Ｔｈｅ",
    "math a+b=c x<y>z {a} [b] (c) a|b a&b a^b ~a !a ?a a\\b `a` ∑∫√ α≤β β-catenin IFN-γ TGF-β1 Δ9",
    "The the THE tHe and AND a A an to TO be BE not NOT it IT no NO if such their will with they this then there these",
    "theirs noted its itself ass bed canned his her she have has you your we our from which who what when how",
    "Schlüsselwörter Übergrößenträger garçon façon œuvre æther þorn ðe Łódź żółć řeřicha İğne ñandú ¿qué? ¡hola!",
    "tab\tnew\nline\rreturn\vvertical\ffeed\x1cfile\x1dgroup\x1erecord\x1funit",
    "mixedкириллица latin漢字latin カタカナlatin latinカタカナ ไทยlatin latin한글 日本ア本あ a日b 1日2 日1本 日_本",
    "'a' \"a\" «a» „a“ ‹a› ‚a‘ “a” ”a” a'’a a.’a a’.a a’’a '’' a' a’ ’a",
    "a:b a::b a:1 1:a :a a: a：b a\ufe13b a\ufe55b a\u0387b a\u05f4b 1\u066c2 1\u066b2 1\u20442 1\u07f82 a;b 1;b 1;2",
]
"""Hand-made; a few hold dozens of cases."""

_SEASONING = [*"'\".,:;_ #*a1bS7é", "’", "\u200d", "\ufe0f", "\ufe0e", "\u20e3", "\u0301", "\u00ad"]
_SEASONING += [*"🏻🏽👩ℹⓂ🅰אבアกั日あ한ß☺©🇦🇧", "\U000e0041", "\U000e007f"]


def random_texts(chance: random.Random) -> Iterator[str]:
    """Texts without end: of awkward characters, of every class of character, of any code points, of a few repeated.

    Some are repeated until their words pass the longest that Lucene keeps, some hold lone surrogates, but none ends
    in a high one: Lucene's reader then takes the text for empty.
    """
    classes = list(word_break.class_ranges().values())

    def of_a_class() -> str:
        first, last = chance.choice(chance.choice(classes))
        return chr(chance.randint(first, last))

    def any_code() -> str:
        last = chance.choice([0x7F, 0x7FF, 0xD7FF, 0x1FFFF, 0xE01FF])
        code = chance.randint(0, last)
        return chr(code) if not 0xD800 <= code < 0xE000 or chance.random() < 0.02 else " "

    sources = [lambda: chance.choice(_SEASONING), of_a_class, any_code]
    while True:
        first, second = chance.choice(sources), chance.choice(sources)
        length = chance.choice([1, 2, 3, 4, 6, 8, 12, 20])
        characters = [chance.choice([first, second])() for _ in range(length)]
        if chance.random() < 0.5:  # few different ones make the rules meet
            few = characters[:4]
            characters = [chance.choice(few) for _ in range(length)]
        if "\ud800" <= characters[-1] <= "\udbff":
            characters.append(" ")
        text = "".join(characters)
        yield text * chance.randint(2, 400) if chance.random() < 0.03 else text


_PORTER = """
s es ies sses ed eed ing y ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness
fulness ousness aliti iviti biliti logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement
ment ent sion tion ion ou ism ate iti ous ive ize e ll at bl iz
"""
_ENDINGS = _PORTER.split()


def random_words(chance: random.Random) -> Iterator[str]:
    """Made-up lower-case words without end, with up to three endings of the Porter stemmer."""
    while True:
        start = "".join(chance.choice("aeiouybcdlstwxz\u00e9\U0001d41d") for _ in range(chance.randint(0, 4)))
        word = start + "".join(chance.choices(_ENDINGS, k=chance.randint(0, 3)))
        if word:
            yield word
