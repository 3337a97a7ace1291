/** See llama-cpp.mjs. */
export const installLlamaCpp: string;
export function findLlamaCpp(cacheDirectory: string): Promise<string | undefined>;
export function setUpLlamaCpp(cacheDirectory: string): Promise<string>;
