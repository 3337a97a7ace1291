import { EngineError } from '../errors.js';
import type { Tokenizer } from '../formats/tokenizer.js';
import { fillTemplate, parseTemplate, placeholdersOf, type TemplatePart } from './placeholders.js';

/** How rows become questions and answers: the part of the configuration that templates need. */
export interface FormatOptions {
  /** `alpaca`, `chat` (the model's own chat template) or an inline prompt. */
  template: 'alpaca' | 'chat' | { prompt: string };
  /** The instruction of a named template. */
  instruction?: string;
  response: string;
  /** Text after the response, before EOS; may be empty. */
  endMarker: string;
}

export interface FormatProblem {
  /** Where in the configuration, e.g. `format.instruction`. */
  path: string;
  message: string;
}

/** Text to learn from. `completion` holds the response, the end marker and, for chat templates, the end of the turn. */
export interface Example {
  prompt: string;
  completion: string;
}

export type Row = Readonly<Record<string, string>>;

/** Text of Stanford Alpaca's prompt for instructions without input (tatsu-lab/stanford_alpaca, train.py). */
const alpacaPrompt = (instruction: string): string =>
  'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' +
  `### Instruction:\n${instruction}\n\n### Response:\n`;

/** A format with its templates parsed. */
export interface Formatter {
  /** The training format up to where the answer starts. */
  prompt(row: Row): string;
  /** The same question in the model's own format: its chat template, or `Q: …\nA:` where it has none. */
  ownPrompt(row: Row): string;
  /** The response of a row without what ends it: what an answer is compared with. */
  response(row: Row): string;
  example(row: Row): Example;
}

/**
 * Parses a format's templates.
 * @throws EngineError `bad_template` for what `templateProblems` would report, and what the chat template raises
 */
export function createFormatter(format: FormatOptions, tokenizer: Pick<Tokenizer, 'chatTemplate' | 'renderChat'>): Formatter {
  const [problem] = [...syntaxProblems(format), ...chatProblems(format, tokenizer)];
  if (problem) throw new EngineError('invalidInput', 'bad_template', `${problem.path}: ${problem.message}`);
  const question = partsOf(promptTemplate(format).template);
  const answer = partsOf(format.response);
  const chat = (content: string) => tokenizer.renderChat([{ role: 'user', content }], { addGenerationPrompt: true });

  const prompt = (row: Row): string => {
    const text = fillTemplate(question, row);
    if (format.template === 'alpaca') return alpacaPrompt(text);
    return format.template === 'chat' ? chat(text) : text;
  };
  const response = (row: Row): string => fillTemplate(answer, row);
  return {
    prompt,
    response,
    ownPrompt(row) {
      const text = fillTemplate(question, row).trim();
      return tokenizer.chatTemplate === undefined ? `Q: ${text}\nA:` : chat(text);
    },
    example(row) {
      const start = prompt(row);
      const text = response(row) + format.endMarker;
      if (format.template !== 'chat') return { prompt: start, completion: text };
      return { prompt: start, completion: chatCompletion(tokenizer, fillTemplate(question, row), start, text) };
    },
  };
}

/** What the chat template writes after the prompt when the assistant answers; blanks after the end of the turn belong to no turn. */
function chatCompletion(tokenizer: Pick<Tokenizer, 'renderChat'>, question: string, prompt: string, answer: string): string {
  const whole = tokenizer.renderChat([{ role: 'user', content: question }, { role: 'assistant', content: answer }], { addGenerationPrompt: false });
  if (!whole.startsWith(prompt)) {
    throw new EngineError(
      'invalidInput', 'chat_template',
      `format.template: expected the model's chat template to write an answered question so that it begins with the unanswered one (${JSON.stringify(prompt)}), got ${JSON.stringify(whole)}; use an inline prompt`,
    );
  }
  return whole.slice(prompt.length).trimEnd();
}

/** The columns that a format names, in the order they are met, each with the place that names it. */
export function requiredColumns(format: FormatOptions): { column: string; path: string }[] {
  const { path, template } = promptTemplate(format);
  return [
    ...placeholdersOf(template).map((column) => ({ column, path })),
    ...placeholdersOf(format.response).map((column) => ({ column, path: 'format.response' })),
  ];
}

/** The columns that the prompt names, each once. */
export const promptColumns = (format: FormatOptions): string[] => placeholdersOf(promptTemplate(format).template);

/** All that is wrong with a format for a dataset of these columns; with a tokenizer also whether it has the chat template asked for. */
export function templateProblems(format: FormatOptions, columns: readonly string[], tokenizer?: Pick<Tokenizer, 'chatTemplate'>): FormatProblem[] {
  const unknown = requiredColumns(format)
    .filter(({ column }) => !columns.includes(column))
    .map(({ column, path }) => ({ path, message: `{${column}}: expected a column of the dataset (${columns.join(', ')}), got '${column}'` }));
  return [...syntaxProblems(format), ...(tokenizer ? chatProblems(format, tokenizer) : []), ...unknown];
}

/** All that is wrong with prompts of the configuration: each needs a value for every column of the prompt, and no other. */
export function promptProblems(format: FormatOptions, prompts: readonly Row[]): FormatProblem[] {
  const columns = promptColumns(format);
  return prompts.flatMap((row, i) => [
    ...columns
      .filter((column) => !Object.hasOwn(row, column) || row[column].trim() === '')
      .map((column) => ({ path: `evaluate.prompts[${i}].${column}`, message: 'expected text for this placeholder of the prompt, got none' })),
    ...Object.keys(row)
      .filter((column) => !columns.includes(column))
      .map((column) => ({
        path: `evaluate.prompts[${i}].${column}`,
        message: `expected a placeholder of the prompt (${columns.join(', ') || 'it has none'}), got '${column}'`,
      })),
  ]);
}

function syntaxProblems(format: FormatOptions): FormatProblem[] {
  const problems: FormatProblem[] = [];
  const inline = typeof format.template === 'object';
  if (inline && format.instruction !== undefined) {
    problems.push({ path: 'format.instruction', message: 'expected none beside an inline prompt, got one; put it into format.template.prompt' });
  }
  if (!inline && format.instruction === undefined) {
    problems.push({ path: 'format.instruction', message: `expected the instruction of template '${format.template as string}', got none` });
  } else {
    const { path, template } = promptTemplate(format);
    const parsed = parseTemplate(template);
    if ('problem' in parsed) problems.push({ path, message: parsed.problem });
  }
  const response = parseTemplate(format.response);
  if ('problem' in response) {
    problems.push({ path: 'format.response', message: response.problem });
  } else if (!response.parts.some((part) => 'column' in part)) {
    problems.push({ path: 'format.response', message: `expected at least one {column}, got '${format.response}', the same answer for every row` });
  }
  return problems;
}

function chatProblems(format: FormatOptions, { chatTemplate }: Pick<Tokenizer, 'chatTemplate'>): FormatProblem[] {
  if (format.template !== 'chat' || chatTemplate !== undefined) return [];
  return [{ path: 'format.template', message: "expected a model with a chat template for 'chat', got one without; use 'alpaca' or an inline prompt" }];
}

function promptTemplate(format: FormatOptions): { path: string; template: string } {
  return typeof format.template === 'object'
    ? { path: 'format.template.prompt', template: format.template.prompt }
    : { path: 'format.instruction', template: format.instruction ?? '' };
}

function partsOf(template: string): TemplatePart[] {
  const parsed = parseTemplate(template);
  if ('problem' in parsed) throw new EngineError('invalidInput', 'bad_template', parsed.problem);
  return parsed.parts;
}
