import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../engine/formats/chat-template.js';
import { strftime } from '../../engine/formats/strftime.js';
import type { ChatMessage } from '../../engine/formats/tokenizer.js';
import { goldenPath } from '../kit/golden.js';

const { templates, conversations, rendered } = JSON.parse(readFileSync(goldenPath('tokenizer-families/templates.json'), 'utf8')) as {
  templates: Record<string, string>;
  conversations: Record<string, ChatMessage[]>;
  rendered: { template: string; conversation: string; prompt: boolean; text?: string; error?: string }[];
};

describe('a date', () => {
  const date = new Date(2026, 2, 5, 15, 4, 9);
  it("is written as Python's strftime writes it", () => {
    expect(strftime(date, '%a %A %b %B %d %H %I %j %m %M %p %S %y %Y %% %-d/%-m')).toBe('Thu Thursday Mar March 05 15 03 064 03 04 PM 09 26 2026 % 5/3');
    expect(strftime(new Date(2026, 0, 1, 0, 0), '%I %p %j')).toBe('12 AM 001');
  });
  it('is refused where its format is not known', () => expect(() => strftime(date, '%Q')).toThrow('got %Q'));
  it("is today's in a template", () => {
    const template = new ChatTemplate("{{ strftime_now('%B %d, %Y') }}", {});
    const before = strftime(new Date(), '%B %d, %Y');
    const text = template.render([], { addGenerationPrompt: false });
    expect([before, strftime(new Date(), '%B %d, %Y')]).toContain(text);
  });
});

describe.each(Object.keys(templates))('a template with %s', (name) => {
  const template = new ChatTemplate(templates[name], { bos_token: '<s>', eos_token: '</s>' });

  it.each(rendered.filter((entry) => entry.template === name))('renders $conversation as transformers does (answer to follow: $prompt)', ({ conversation, prompt, text, error }) => {
    const render = () => template.render(conversations[conversation], { addGenerationPrompt: prompt });
    if (error === undefined) expect(render()).toBe(text);
    else expect(render).toThrow(`got: ${error}`);
  });
});
