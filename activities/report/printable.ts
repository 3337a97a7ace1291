/** Text with control characters as signs that can be seen, but for line ends and tabs: ␀ for NUL, � for those that have no sign. */
export const printable = (text: string): string =>
  text.replace(/[^\P{Cc}\n\r\t]/gu, (character) => (character < ' ' ? String.fromCharCode(0x2400 + character.charCodeAt(0)) : '\ufffd'));
