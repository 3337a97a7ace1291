import { describe, expect, it } from 'vitest';
import { fillTemplate, parseTemplate, placeholdersOf } from '../../engine/data/placeholders.js';
import { createFormatter, promptColumns, promptProblems, requiredColumns, templateProblems, type FormatOptions } from '../../engine/data/template.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';

const plain: Pick<Tokenizer, 'chatTemplate' | 'renderChat'> = { renderChat: () => { throw new Error('no chat template'); } };
/** ChatML, as SmolLM2 and Qwen write it. */
const chatml = {
  chatTemplate: 'chatml',
  renderChat: (messages: { role: string; content: string }[], { addGenerationPrompt }: { addGenerationPrompt: boolean }) =>
    messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join('') + (addGenerationPrompt ? '<|im_start|>assistant\n' : ''),
};
const alpaca: FormatOptions = { template: 'alpaca', instruction: 'Describe {product} ({category})', response: '{description}', endMarker: '\n### End' };
const row = { product: 'mouse', category: 'device', description: 'It points.' };

describe('placeholders', () => {
  it.each([
    ['a {b} c', [{ text: 'a ' }, { column: 'b' }, { text: ' c' }]],
    ['{{"key": "{value}"}}', [{ text: '{"key": "' }, { column: 'value' }, { text: '"}' }]],
    ['{a}{b c}', [{ column: 'a' }, { column: 'b c' }]],
    ['', []],
  ])('parses %j', (template, parts) => expect(parseTemplate(template)).toEqual({ parts }));

  it.each([
    ['a {b', 'expected {column}, or {{ for a brace, got "{b" at character 3'],
    ['a } b', 'expected {column}, or }} for a brace, got "} b" at character 3'],
    ['{}', 'expected {column}, or {{ for a brace, got "{}" at character 1'],
    ['{a{b}', 'expected {column}, or {{ for a brace, got "{a{b}" at character 1'],
  ])('refuses %j', (template, problem) => expect(parseTemplate(template)).toEqual({ problem }));

  it('lists each column once', () => expect(placeholdersOf('{a} {b} {a} {{c}}')).toEqual(['a', 'b']));

  it('does not expand braces of a value', () => {
    expect(fillTemplate([{ column: 'a' }], { a: '{b} {{' })).toBe('{b} {{');
  });
});

describe('createFormatter', () => {
  it('writes the Alpaca prompt and ends the completion with the end marker', () => {
    expect(createFormatter(alpaca, plain).example(row)).toEqual({
      prompt: 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' +
        '### Instruction:\nDescribe mouse (device)\n\n### Response:\n',
      completion: 'It points.\n### End',
    });
  });

  it('asks in the model\'s own format: chat template, or Q and A without one', () => {
    expect(createFormatter(alpaca, plain).ownPrompt(row)).toBe('Q: Describe mouse (device)\nA:');
    expect(createFormatter(alpaca, chatml).ownPrompt(row)).toBe('<|im_start|>user\nDescribe mouse (device)<|im_end|>\n<|im_start|>assistant\n');
  });

  it('ends a chat completion with the end of the turn', () => {
    expect(createFormatter({ ...alpaca, template: 'chat', endMarker: '' }, chatml).example(row)).toEqual({
      prompt: '<|im_start|>user\nDescribe mouse (device)<|im_end|>\n<|im_start|>assistant\n',
      completion: 'It points.<|im_end|>',
    });
  });

  it('refuses a chat template that rewrites the question once it is answered', () => {
    const renderChat = (messages: object[]) => `${messages.length} messages`;
    expect(() => createFormatter({ ...alpaca, template: 'chat' }, { chatTemplate: 'odd', renderChat }).example(row)).toThrow(
      'format.template: expected the model\'s chat template to write an answered question so that it begins with the unanswered one ("1 messages"), got "2 messages"',
    );
  });

  it('takes an inline prompt as it is', () => {
    const format = { template: { prompt: 'Q: {product}\nA:' }, response: ' {description}', endMarker: '' };
    expect(createFormatter(format, plain).example(row)).toEqual({ prompt: 'Q: mouse\nA:', completion: ' It points.' });
  });

  it('gives the response without what ends it', () => expect(createFormatter(alpaca, plain).response(row)).toBe('It points.'));
});

describe('columns of a format', () => {
  it('are listed with the place that names them', () => {
    expect(requiredColumns(alpaca)).toEqual([
      { column: 'product', path: 'format.instruction' }, { column: 'category', path: 'format.instruction' },
      { column: 'description', path: 'format.response' },
    ]);
    expect(promptColumns(alpaca)).toEqual(['product', 'category']);
  });
});

describe('templateProblems', () => {
  const columns = ['product', 'category', 'description'];
  it('finds none in a right format', () => expect(templateProblems(alpaca, columns, plain)).toEqual([]));

  it.each<[string, Partial<FormatOptions>, { path: string; message: string }[]]>([
    ['a column that the dataset lacks', { instruction: '{produkt}' },
      [{ path: 'format.instruction', message: "{produkt}: expected a column of the dataset (product, category, description), got 'produkt'" }]],
    ['a named template without an instruction', { instruction: undefined },
      [{ path: 'format.instruction', message: "expected the instruction of template 'alpaca', got none" }]],
    ['an inline prompt with an instruction', { template: { prompt: '{product}' } },
      [{ path: 'format.instruction', message: 'expected none beside an inline prompt, got one; put it into format.template.prompt' }]],
    ['an open brace', { instruction: '{product' },
      [{ path: 'format.instruction', message: 'expected {column}, or {{ for a brace, got "{product" at character 1' }]],
    ['a constant answer', { response: 'description' },
      [{ path: 'format.response', message: "expected at least one {column}, got 'description', the same answer for every row" }]],
    ['a chat template that the model lacks', { template: 'chat' },
      [{ path: 'format.template', message: "expected a model with a chat template for 'chat', got one without; use 'alpaca' or an inline prompt" }]],
  ])('reports %s', (_, change, problems) => expect(templateProblems({ ...alpaca, ...change }, columns, plain)).toEqual(problems));

  it('reports all problems at once', () => {
    expect(templateProblems({ ...alpaca, instruction: '{a} {b}', response: '{' }, columns).map(({ path }) => path))
      .toEqual(['format.response', 'format.instruction', 'format.instruction']);
  });
});

describe('promptProblems', () => {
  it('finds missing, blank and unknown values', () => {
    expect(promptProblems(alpaca, [{ product: 'x', category: 'y' }, { product: ' ', colour: 'z' }])).toEqual([
      { path: 'evaluate.prompts[1].product', message: 'expected text for this placeholder of the prompt, got none' },
      { path: 'evaluate.prompts[1].category', message: 'expected text for this placeholder of the prompt, got none' },
      { path: 'evaluate.prompts[1].colour', message: "expected a placeholder of the prompt (product, category), got 'colour'" },
    ]);
  });
});
