/** Whether a path is a pattern of several: it has `*`, `?` or `[…]`. */
export const isGlob = (path: string): boolean => /[*?[\]]/.test(path);

/** The folders before a pattern's first wildcard, with the slash at their end; '' when there are none. */
export const globRoot = (pattern: string): string => pattern.slice(0, pattern.slice(0, pattern.search(/[*?[\]]/)).lastIndexOf('/') + 1);

/**
 * A pattern as a test of whole paths, as fsspec and the `datasets` library read it: `*` and `?` stay within a folder, `**` is any
 * number of folders, `[abc]` and `[!abc]` are characters. What begins with `.` or `__` matches only where the pattern says so.
 */
export function globTest(pattern: string): (path: string) => boolean {
  const source = pattern.replace(/\*\*\/?|\*|\?|\[!?\]?[^\]]*\]|[\s\S]/g, (part) => {
    if (part === '**/') return '(?:[^]*/)?';
    if (part === '**') return '[^]*';
    if (part === '*') return '[^/]*';
    if (part === '?') return '[^/]';
    if (part.length > 1) return `[${part.slice(1, -1).replace(/^!/, '^').replace(/[\\\]]/g, '\\$&')}]`;
    return part.replace(/[.*+?^${}()|[\]\\]/, '\\$&');
  });
  const regex = new RegExp(`^${source}$`, 'u');
  const hiddenParts = (path: string) => path.split('/').filter((part) => /^(\.|__)/.test(part)).length;
  const requested = hiddenParts(pattern);
  return (path) => regex.test(path) && hiddenParts(path) <= requested;
}
