"""The shapes of an integrator's SDK (aikit for respond.io), of the four types that it has: strict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Shape(BaseModel):
    """No value is converted to fit."""

    model_config = ConfigDict(strict=True)


class User(Shape):
    """A user of the workspace."""

    id: int
    firstName: str | None
    lastName: str | None
    email: str | None


class CustomField(Shape):
    """A custom field of a contact."""

    name: str
    value: str | None


class Contact(Shape):
    """The contact of an event."""

    id: int
    status: str | None
    lifecycle: str | None = None
    firstName: str | None
    lastName: str | None
    email: str | None
    phone: str | None
    language: str | None
    profilePic: str | None
    countryCode: str | None
    assignee: User | None
    created_at: int
    tags: list[str] | None = None
    custom_fields: list[CustomField] | None = None


class Channel(Shape):
    """The channel of a message."""

    id: int
    name: str
    source: str
    meta: str | None = None
    created_at: int


class Attachment(Shape):
    """The file of a message."""

    type: Literal["image", "file", "video", "audio"]
    url: str
    isPending: bool
    fileName: str | None
    ext: str | None
    size: str | int | None
    mime: str | None


class TextContent(Shape):
    """A text."""

    type: Literal["text"]
    text: str
    messageTag: str | None = None


class AttachmentContent(Shape):
    """A file."""

    type: Literal["attachment"]
    attachment: Attachment


class Status(Shape):
    """A state of a message."""

    value: Literal["pending", "sent", "delivered", "read", "failed"]
    timestamp: int
    message: str | None = None


class Message(Shape):
    """A message with what is known of its way; content of other kinds is ignored."""

    messageId: int
    channelMessageId: int | str
    contactId: int
    channelId: int
    traffic: Literal["incoming", "outgoing"]
    message: TextContent | AttachmentContent | dict[str, Any]
    timestamp: int
    status: list[Status] = []


class Conversation(Shape):
    """The conversation that was closed."""

    category: str | None
    summary: str | None
    openedTime: int
    openedBySource: str
    closedTime: int
    closedBy: User | dict[str, Any] | None
    closedBySource: str
    firstResponseTime: int | None
    resolutionTime: int
    incomingMessageCount: int
    outgoingMessageCount: int
    assigneeTeam: str | None
    lastAssignmentTime: int | None = None


class MessageReceived(Shape):
    """message.received."""

    event_id: str
    event_type: Literal["message.received"]
    contact: Contact
    channel: Channel
    message: Message


class MessageSent(Shape):
    """message.sent."""

    event_id: str
    event_type: Literal["message.sent"]
    contact: Contact
    channel: Channel
    message: Message


class AssigneeUpdated(Shape):
    """contact.assignee.updated."""

    event_id: str
    event_type: Literal["contact.assignee.updated"]
    contact: Contact


class ConversationClosed(Shape):
    """conversation.closed."""

    event_id: str
    event_type: Literal["conversation.closed"]
    contact: Contact
    conversation: Conversation


EVENT: TypeAdapter[MessageReceived | MessageSent | AssigneeUpdated | ConversationClosed] = TypeAdapter(
    Annotated[MessageReceived | MessageSent | AssigneeUpdated | ConversationClosed, Field(discriminator="event_type")]
)


def take(body: bytes) -> tuple[str, str]:
    """The type and the id of an event that fits; ValidationError."""
    event = EVENT.validate_json(body)
    return event.event_type, event.event_id
