/** How numbers read in a report: the same on every machine. */
const grouped = new Intl.NumberFormat('en-US');

/** 1,234,567 */
export const count = (value: number): string => grouped.format(value);

/** A count with its noun: 1 row, 2 rows. */
export const counted = (value: number, noun: string): string => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

/** 12.5%, 100%: at most `digits` after the point. */
export const percent = (share: number, digits = 1): string => `${Number((share * 100).toFixed(digits))}%`;

/** 5 KB, 1.2 MB: powers of 1000. */
export function size(bytes: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  const value = bytes / 1000 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
}

/** 0.4 s, 12 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A perplexity or another positive figure to about three digits: 8.92, 47.1, 1,203. */
export const significant = (value: number): string => (value >= 1000 ? count(Math.round(value)) : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
