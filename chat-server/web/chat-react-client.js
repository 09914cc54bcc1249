"use client";

// What server components import, by the condition `react-server`. The directive is not in chat-react.js,
// since Rollup and Vite warn of it. Next.js wants the names.

export { ChatProvider, useChat, useConnection, useMembers, useRoom, useTyping } from "./chat-react.js";
