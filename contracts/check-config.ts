/** Checks a configuration and words every problem by its path, for the command line and the `validate` stage alike. */
import type { z } from 'zod';
import { InvalidInputError } from './errors.js';
import { fineTuneConfigSchema, type FineTuneConfig } from './fine-tune-config.js';
import type { Problem } from './pipeline.js';
import { nearest } from './nearest.js';

type Issue = z.core.$ZodIssue;
type Path = readonly PropertyKey[];

/**
 * Fills in the defaults.
 * @throws InvalidInputError with every problem found
 */
export function checkConfig(input: unknown): FineTuneConfig {
  const parsed = fineTuneConfigSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw new InvalidInputError(parsed.error.issues.flatMap((issue) => problemsOf(issue, input, [])));
}

function problemsOf(issue: Issue, input: unknown, parent: Path): Problem[] {
  const path = [...parent, ...issue.path];
  const value = valueAt(input, path);
  const problem = (message: string): Problem[] => [{ path: formatPath(path) || 'config', message }];
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => ({ path: formatPath([...path, key]), message: unknownKey(key, path, value) }));
    case 'invalid_type':
      return problem(value === undefined ? `missing, expected ${withArticle(issue.expected)}` : `expected ${withArticle(issue.expected)}, got ${show(value)}`);
    case 'invalid_value':
      // A schema's own words start so; zod's do not.
      return problem(`${issue.message.startsWith('expected') ? issue.message : `expected ${oneOf(issue.values.map(String))}`}, got ${show(value)}`);
    case 'too_small':
      return problem(`expected ${sizeOf(issue.origin)}${issue.inclusive === false ? `more than ${issue.minimum}` : `${issue.minimum} or more`}, got ${show(value)}`);
    case 'too_big':
      return problem(`expected ${sizeOf(issue.origin)}${issue.inclusive === false ? `less than ${issue.maximum}` : `${issue.maximum} or less`}, got ${show(value)}`);
    case 'invalid_union':
      return unionProblems(issue, input, path);
    default:
      return problem(issue.message.includes(', got ') ? issue.message : `${issue.message}${value === undefined ? '' : `, got ${show(value)}`}`);
  }
}

/** Of a union's alternatives, those problems count that lie inside the value; otherwise the value fits none of them at all. */
function unionProblems(issue: Extract<Issue, { code: 'invalid_union' }>, input: unknown, path: Path): Problem[] {
  const inside = issue.errors.find((alternative) => alternative.length > 0 && alternative.every((inner) => inner.path.length > 0 || inner.code === 'unrecognized_keys'));
  if (inside) return inside.flatMap((inner) => problemsOf(inner, input, path));
  const value = valueAt(input, path);
  const expected = alternativesAt(path);
  return [{ path: formatPath(path) || 'config', message: `${value === undefined ? 'missing, ' : ''}expected ${expected}${value === undefined ? '' : `, got ${show(value)}`}` }];
}

function unknownKey(key: string, path: Path, value: unknown): string {
  const shapes = schemasAt(path).flatMap((schema) => ('shape' in schema ? [schema.shape as Record<string, z.core.$ZodType>] : []));
  const known = shapes.flatMap((shape) => Object.keys(shape));
  if (known.includes(key)) {
    const decisive = Object.keys(shapes[0]).filter((name) => shapes.every((shape) => shape[name]?._zod.values?.size === 1));
    return `does not go with ${decisive.map((name) => `${name} ${show(valueAt(value, [name]))}`).join(' and ')}`;
  }
  const near = nearest(key, known);
  if (near) return `unknown key, did you mean '${near}'?`;
  return `unknown key, expected ${oneOf([...new Set(known)])}`;
}

/** What a value at this path may be, in words: literals by name, objects by their keys. */
function alternativesAt(path: Path): string {
  const words = schemasAt(path).flatMap((schema): string[] => {
    if ('shape' in schema) {
      const shape = schema.shape as Record<string, z.core.$ZodType>;
      const [key, first] = Object.entries(shape)[0];
      const values = first._zod.values;
      return [`an object with '${key}'${values ? ` ${[...values].map(show).join(' or ')}` : ''}`];
    }
    return schema._zod.values ? [...schema._zod.values].map(String) : [withArticle(schema._zod.def.type)];
  });
  return oneOf(words);
}

/** The schemas that may describe the value at a path, unions taken apart. */
function schemasAt(path: Path): z.core.$ZodType[] {
  let schemas = alternatives(fineTuneConfigSchema);
  for (const key of path) {
    schemas = schemas.flatMap((schema) => {
      if ('shape' in schema) return alternatives((schema.shape as Record<PropertyKey, z.core.$ZodType>)[key]);
      return 'element' in schema ? alternatives(schema.element as z.core.$ZodType) : [];
    });
  }
  return schemas;
}

function alternatives(schema: z.core.$ZodType | undefined): z.core.$ZodType[] {
  if (!schema) return [];
  const def = schema._zod.def as { innerType?: z.core.$ZodType; options?: z.core.$ZodType[] };
  if (def.options) return def.options.flatMap(alternatives);
  return def.innerType ? alternatives(def.innerType) : [schema];
}

/** `lora.targetModules[2]` */
const formatPath = (path: Path): string =>
  path.map((key, index) => (typeof key === 'number' ? `[${key}]` : `${index ? '.' : ''}${String(key)}`)).join('');

const valueAt = (input: unknown, path: Path): unknown =>
  path.reduce<unknown>((value, key) => (typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined), input);

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

const oneOf = (words: string[]): string => (words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`);

const sizeOf = (origin: string): string => ({ string: 'a text length of ', array: 'a list length of ' })[origin] ?? '';

const withArticle = (type: string): string =>
  ({ int: 'a whole number', number: 'a number', string: 'a string', boolean: 'true or false', object: 'an object', record: 'an object', array: 'an array' })[type] ?? type;
