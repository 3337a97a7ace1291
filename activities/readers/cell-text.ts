/** A value as the text that a template shows: nothing for null, JSON for arrays and objects, ISO 8601 for dates. Undefined for bytes, which are no text. */
export function cellText(value: unknown): string | undefined {
  if (value === null || value === undefined) return '';
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return undefined;
  if (value instanceof Date) return value.toISOString();
  if (typeof value === 'object') return JSON.stringify(value, (_, field: unknown) => (typeof field === 'bigint' ? String(field) : field));
  return String(value);
}
