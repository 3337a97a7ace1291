const two = (value: number): string => String(value).padStart(2, '0');
const named = (options: Intl.DateTimeFormatOptions) => {
  const format = new Intl.DateTimeFormat('en-US', options);
  return (date: Date): string => format.format(date);
};
const dayOfYear = (date: Date): number => Math.round((Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 0)) / 86_400_000);

/** Python's directives, in its C locale. https://docs.python.org/3/library/datetime.html#format-codes */
const directives: Record<string, (date: Date) => string> = {
  a: named({ weekday: 'short' }),
  A: named({ weekday: 'long' }),
  b: named({ month: 'short' }),
  B: named({ month: 'long' }),
  d: (date) => two(date.getDate()),
  H: (date) => two(date.getHours()),
  I: (date) => two(date.getHours() % 12 || 12),
  j: (date) => String(dayOfYear(date)).padStart(3, '0'),
  m: (date) => two(date.getMonth() + 1),
  M: (date) => two(date.getMinutes()),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  S: (date) => two(date.getSeconds()),
  y: (date) => two(date.getFullYear() % 100),
  Y: (date) => String(date.getFullYear()),
  '%': () => '%',
};

/** A date in local time, in English. `%-d` is a number without its leading zeros. Throws for a directive that is not known. */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)(.?)/g, (whole, dash: string, letter: string) => {
    if (!Object.hasOwn(directives, letter)) throw new Error(`strftime: expected one of ${Object.keys(directives).map((known) => `%${known}`).join(', ')}, got ${whole}`);
    const text = directives[letter](date);
    return dash ? text.replace(/^0+(?=\d)/, '') : text;
  });
}
