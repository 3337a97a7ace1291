/** Figures as people read them. */

/** `8 s`, `1 m 05 s`, `2 h 03 m` */
export function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return seconds < 10 ? `${Number(seconds.toFixed(1))} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} m`;
}

export const formatPercent = (share: number): string => `${Math.round(share * 100)}%`;

/** Cut to `width` characters, with `…` where something is missing. */
export const fit = (text: string, width: number): string => (text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`);

/** Words wrapped into lines of at most `width` characters; a longer word is cut. Control characters, which a terminal would obey, become �. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.replace(/[^\P{Cc}\s]/gu, '\ufffd').split('\n')) {
    let line = '';
    for (const word of paragraph.split(/\s+/).filter(Boolean).flatMap((part) => chunks(part, width))) {
      if (line !== '' && line.length + 1 + word.length > width) {
        lines.push(line);
        line = '';
      }
      line = line === '' ? word : `${line} ${word}`;
    }
    lines.push(line);
  }
  return lines;
}

const chunks = (word: string, width: number): string[] => word.match(new RegExp(`.{1,${width}}`, 'gu')) ?? [];

const pad = (value: number): string => String(value).padStart(2, '0');
