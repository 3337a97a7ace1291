import { badDataset, type DatasetFile } from './dataset-file.js';

/** A parsed JSON value as a record of column values. */
export function jsonObject(file: DatasetFile, place: string, value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw badDataset(file, place, `expected a JSON object of column names and values, got ${kindOf(value)}`);
  }
  return value as Record<string, unknown>;
}

export function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
