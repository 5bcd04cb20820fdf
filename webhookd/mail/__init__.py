"""The mail queue: messages, the SMTP client, the task that sends."""
