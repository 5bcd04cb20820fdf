"""The event types: when each fires, and what its events hold.

Nine types are built in; the configuration can add types of the product, with a label and a description.  *Send test*
sends the samples; every field of theirs is described, for the page and `GET /v1/event-types`.

A field's path reads `contact.assignee.email`; `attachments[].url` is a field of each element of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from webhookd.errors import ApiError, did_you_mean, field_error
from webhookd.models import EVERY_TYPE


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a payload: its path, its JSON type, its meaning."""

    path: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class EventType:
    """One event type: its label on the page, when it fires, what its events hold.  Never change `sample`."""

    name: str
    label: str
    description: str
    fields: tuple[Field, ...]
    sample: dict[str, Any]


class EventTypes:
    """The nine built-in event types and those of the configuration: `extra` maps names to label and description."""

    def __init__(self, extra: Mapping[str, tuple[str, str]] | None = None) -> None:
        self._types = {each.name: each for each in BUILT_IN}
        for name, (label, description) in (extra or {}).items():
            known = self._types.get(name) or _bare_type(name)
            self._types[name] = replace(known, label=label, description=description)
        self.names: tuple[str, ...] = tuple(self._types)

    def get(self, name: str) -> EventType | None:
        """The type of this name; None if there is none."""
        return self._types.get(name)

    def require(self, name: str, *, kept: Sequence[str] = ()) -> EventType:
        """The type of this name; else ApiError `unknown_event_type`, naming the nearest one.

        `kept` are the types that an endpoint has: one that the configuration lost meanwhile is known by its name.
        """
        known = self._types.get(name)
        if known is None and name != EVERY_TYPE and name in kept:
            known = _bare_type(name)
        if known is not None:
            return known
        shown = name[:100]
        nearest = did_you_mean(name, self.names, cutoff=0.0)
        raise ApiError(
            "unknown_event_type",
            f'The catalogue has no event type {shown!r}: did you mean "{nearest}"? (GET /v1/event-types lists all; '
            "the configuration can add types.)",
            details={"event_type": shown, "nearest": nearest},
        )

    def check_types(self, names: Sequence[str], *, kept: Sequence[str] = ()) -> tuple[str, ...]:
        """An endpoint's `event_types` as stored: each once, in the order given, or `("*",)` for every type.

        `kept` are those that it has already; it may keep them.  Raises ApiError: invalid_field if there are none or
        `*` isn't alone, unknown_event_type.
        """
        distinct = tuple(dict.fromkeys(names))
        if not distinct:
            message = 'event_types is empty: name at least one, or ["*"] for all; to stop an endpoint, disable it.'
            raise field_error("event_types", message)
        if EVERY_TYPE in distinct:
            if len(distinct) > 1:
                message = 'event_types: "*" means every type, so it stands alone; leave it or the others out.'
                raise field_error("event_types", message)
            return distinct
        return tuple(self.require(name, kept=kept).name for name in distinct)


def _person(path: str, who: str) -> tuple[Field, ...]:
    return (
        Field(path, "object", f"{who}, a user of the workspace"),
        Field(f"{path}.id", "integer", "The user's id"),
        Field(f"{path}.firstName", "string", "The user's first name"),
        Field(f"{path}.lastName", "string", "The user's last name"),
        Field(f"{path}.email", "string", "The user's e-mail address"),
    )


_ENVELOPE = (
    Field("event_type", "string", "The event's type, a name of the catalogue"),
    Field("event_id", "string", "The event's id: the same over retries and replays, so receivers deduplicate by it"),
)

_CONTACT = (
    Field("contact", "object", "The contact whom the event is about"),
    Field("contact.id", "integer", "The contact's id"),
    Field("contact.firstName", "string", "The contact's first name"),
    Field("contact.lastName", "string", "The contact's last name"),
    Field("contact.phone", "string", "The contact's phone number, as E.164 has it"),
    Field("contact.email", "string", "The contact's e-mail address"),
    Field("contact.language", "string", "The contact's language, as an ISO 639-1 code"),
    Field("contact.profilePic", "string", "The URL of the contact's picture"),
    Field("contact.countryCode", "string", "The contact's country, as an ISO 3166-1 alpha-2 code"),
    Field("contact.status", "string", "The state of the conversation with the contact: open or closed"),
    *_person("contact.assignee", "Who the contact is assigned to"),
    Field("contact.created_at", "integer", "When the contact was created, in seconds since 1970"),
)

_CONTACT_WITH_TAGS = (
    *_CONTACT,
    Field("contact.tags", "array of strings", "The contact's tags"),
    Field("contact.blood_group", "string or null", "A custom field of the workspace, under its own name"),
    Field("contact.loyalty_number", "string or null", "A custom field of the workspace, under its own name"),
)

_MESSAGE = (
    Field("message", "object", "The message with what is known of its way"),
    Field("message.messageId", "integer", "The message's id"),
    Field("message.channelMessageId", "string", "The message's id in its channel"),
    Field("message.contactId", "integer", "The id of the contact who wrote or gets the message"),
    Field("message.channelId", "integer", "The id of the channel that the message goes through"),
    Field("message.traffic", "string", "incoming: from the contact; outgoing: to the contact"),
    Field("message.message", "object", "The content of the message"),
    Field("message.message.type", "string", "The kind of content, as text"),
    Field("message.message.text", "string", "The text of the message"),
    Field("message.timestamp", "integer", "When the message was written, in milliseconds since 1970"),
)

_CHANNEL = (
    Field("channel", "object", "The channel that the message goes through"),
    Field("channel.id", "integer", "The channel's id"),
    Field("channel.name", "string", "The channel's name"),
    Field("channel.source", "string", "The kind of channel, as whatsapp_cloud"),
    Field("channel.meta", "string", "What else the channel says of itself, as JSON in a string"),
    Field("channel.created_at", "integer", "When the channel was connected, in seconds since 1970"),
)


def _bare_type(name: str) -> EventType:
    return EventType(
        name, name, "", _ENVELOPE, {"event_type": name, "event_id": "6f1d4a0e-2f0f-4b6e-9a53-0a1c6de7b000"}
    )


_ASSIGNEE = {"id": 2, "firstName": "Minh", "lastName": "Tran", "email": "minh.tran@example.com"}

_SAMPLE_CONTACT = {
    "id": 1,
    "firstName": "Lan",
    "lastName": "Nguyen",
    "phone": "+60123456789",
    "email": "lan.nguyen@example.com",
    "language": "en",
    "profilePic": "https://cdn.example.com/lan.png",
    "countryCode": "MY",
    "status": "open",
    "assignee": _ASSIGNEE,
    "created_at": 1663274081,
}

_SAMPLE_CONTACT_WITH_TAGS = {**_SAMPLE_CONTACT, "tags": ["vip", "renewal"], "blood_group": None, "loyalty_number": None}
_SAMPLE_CHANNEL = {"id": 7, "name": "Support line", "source": "whatsapp_cloud", "meta": "{}", "created_at": 1663274081}


def _sample(name: str, last: int, **members: Any) -> dict[str, Any]:
    return {"event_type": name, "event_id": f"6f1d4a0e-2f0f-4b6e-9a53-0a1c6de7b{last:03}", **members}


BUILT_IN: tuple[EventType, ...] = (
    EventType(
        "conversation.closed",
        "Conversation Closed",
        "A conversation with a contact was closed.",
        (
            *_ENVELOPE,
            *_CONTACT,
            Field("conversation", "object", "The conversation that was closed"),
            Field("conversation.category", "string", "The category that it was closed with"),
            Field("conversation.summary", "string", "The summary written when it was closed"),
            Field("conversation.openedTime", "integer", "When it was opened, in seconds since 1970"),
            Field("conversation.openedBySource", "string", "What opened it, as contact or user"),
            Field("conversation.closedTime", "integer", "When it was closed, in seconds since 1970"),
            *_person("conversation.closedBy", "Who closed it"),
            Field("conversation.closedBySource", "string", "What closed it, as user or workflow"),
            Field("conversation.firstResponseTime", "integer", "How long the first answer took, in seconds"),
            Field("conversation.resolutionTime", "integer", "How long it was open, in seconds"),
            Field("conversation.incomingMessageCount", "integer", "How many messages the contact sent"),
            Field("conversation.outgoingMessageCount", "integer", "How many messages the contact got"),
            Field("conversation.assigneeTeam", "string", "The team that it was assigned to"),
            Field("conversation.lastAssignmentTime", "integer", "When it was last assigned, in seconds since 1970"),
        ),
        _sample(
            "conversation.closed",
            4,
            contact=_SAMPLE_CONTACT,
            conversation={
                "category": "Order status",
                "summary": "Asked for the parcel; tracking link sent.",
                "openedTime": 1726740558,
                "openedBySource": "contact",
                "closedTime": 1726741158,
                "closedBy": _ASSIGNEE,
                "closedBySource": "user",
                "firstResponseTime": 54,
                "resolutionTime": 600,
                "incomingMessageCount": 3,
                "outgoingMessageCount": 2,
                "assigneeTeam": "Support",
                "lastAssignmentTime": 1726740561,
            },
        ),
    ),
    EventType(
        "contact.created",
        "New Contact",
        "A contact was added to the workspace.",
        (*_ENVELOPE, *_CONTACT_WITH_TAGS),
        _sample("contact.created", 5, contact=_SAMPLE_CONTACT_WITH_TAGS),
    ),
    EventType(
        "message.sent",
        "New Outgoing Message",
        "A message was sent to a contact, by a user or automatically.",
        (
            *_ENVELOPE,
            *_CONTACT,
            *_MESSAGE,
            Field("message.status", "array of objects", "The states that the message went through, in order"),
            Field("message.status[].value", "string", "The state, as pending or sent"),
            Field("message.status[].timestamp", "integer", "When it was reached, in milliseconds since 1970"),
            *_CHANNEL,
            Field("channel.lastMessageTime", "integer", "When its last message went or came, in seconds since 1970"),
            Field(
                "channel.lastIncomingMessageTime", "integer", "When its last incoming one came, in seconds since 1970"
            ),
            *_person("user", "Who sent the message"),
            Field("sender", "object", "What sent the message"),
            Field("sender.type", "string", "What kind of sending it was, as message"),
            Field("sender.source", "string", "What sent it, as user"),
            Field("sender.teamId", "integer", "The id of the sender's team"),
            Field("sender.userId", "integer", "The id of the user who sent it"),
        ),
        _sample(
            "message.sent",
            2,
            contact=_SAMPLE_CONTACT,
            message={
                "messageId": 1726740612873000,
                "channelMessageId": "wamid.HBgMNjAxMjM0NTY3ODkVAgB",
                "contactId": 1,
                "channelId": 7,
                "traffic": "outgoing",
                "timestamp": 1726740612873,
                "message": {"type": "text", "text": "It left our warehouse this morning."},
                "status": [
                    {"value": "pending", "timestamp": 1726740612873},
                    {"value": "sent", "timestamp": 1726740613120},
                ],
            },
            channel={**_SAMPLE_CHANNEL, "lastMessageTime": 1726740612, "lastIncomingMessageTime": 1726740558},
            user=_ASSIGNEE,
            sender={"type": "message", "source": "user", "teamId": 11, "userId": 2},
        ),
    ),
    EventType(
        "message.received",
        "New Incoming Message",
        "A contact sent a message.",
        (
            *_ENVELOPE,
            *_CONTACT,
            *_MESSAGE,
            *_CHANNEL,
            Field("sender", "object", "What sent the message"),
            Field("sender.type", "string", "What kind of sending it was, as message"),
            Field("sender.source", "string", "What sent it, as contact"),
        ),
        _sample(
            "message.received",
            1,
            contact=_SAMPLE_CONTACT,
            message={
                "messageId": 1726740558441000,
                "channelMessageId": "wamid.HBgMNjAxMjM0NTY3ODkVAgA",
                "contactId": 1,
                "channelId": 7,
                "traffic": "incoming",
                "message": {"type": "text", "text": "Xin chào! Đơn hàng của tôi đâu rồi? 📦"},
                "timestamp": 1726740558441,
            },
            channel=_SAMPLE_CHANNEL,
            sender={"type": "message", "source": "contact"},
        ),
    ),
    EventType(
        "contact.updated",
        "Contact Updated",
        "A field of a contact was changed.",
        (*_ENVELOPE, *_CONTACT_WITH_TAGS),
        _sample("contact.updated", 6, contact=_SAMPLE_CONTACT_WITH_TAGS),
    ),
    EventType(
        "conversation.opened",
        "Conversation Opened",
        "A conversation with a contact was opened.",
        (
            *_ENVELOPE,
            *_CONTACT,
            Field("conversation", "object", "The conversation that was opened"),
            Field("conversation.source", "string", "What opened it, as contact or user"),
            Field("conversation.conversationOpenedAt", "integer", "When it was opened, in seconds since 1970"),
            Field("conversation.firstIncomingMessage", "string", "The text of the contact's first message"),
            Field("conversation.firstIncomingMessageChannelId", "integer", "The id of the channel of that message"),
        ),
        _sample(
            "conversation.opened",
            3,
            contact=_SAMPLE_CONTACT,
            conversation={
                "source": "contact",
                "conversationOpenedAt": 1726740558,
                "firstIncomingMessage": "Xin chào! Đơn hàng của tôi đâu rồi? 📦",
                "firstIncomingMessageChannelId": 7,
            },
        ),
    ),
    EventType(
        "contact.assignee.updated",
        "Contact Assignee Updated",
        "A contact was assigned to another user, or to nobody.",
        (*_ENVELOPE, *_CONTACT),
        _sample("contact.assignee.updated", 8, contact=_SAMPLE_CONTACT),
    ),
    EventType(
        "contact.tag.updated",
        "Contact Tag Updated",
        "A tag was added to a contact, or removed.",
        (
            *_ENVELOPE,
            Field("tag", "string", "The tag that was added or removed"),
            Field("action", "string", "What happened to the tag: add or remove"),
            *_CONTACT_WITH_TAGS,
        ),
        _sample("contact.tag.updated", 7, tag="renewal", action="add", contact=_SAMPLE_CONTACT_WITH_TAGS),
    ),
    EventType(
        "comment.created",
        "New Comment",
        "A user wrote an internal comment about a contact.",
        (
            *_ENVELOPE,
            Field("text", "string", "The comment"),
            *_CONTACT,
            Field("attachments", "array of objects", "The files that came with the comment"),
            Field("attachments[].ext", "string", "The file's extension"),
            Field("attachments[].url", "string", "Where the file can be fetched"),
            Field("attachments[].size", "integer", "The file's size in bytes"),
            Field("attachments[].type", "string", "The kind of attachment, as file or image"),
            Field("attachments[].fileName", "string", "The file's name"),
            Field("attachments[].mimeType", "string", "The file's media type"),
            Field("mentionedUserIds", "array of integers", "The ids of the users whom the comment mentions"),
            Field("mentionedUserEmails", "array of strings", "The e-mail addresses of the users whom it mentions"),
        ),
        _sample(
            "comment.created",
            9,
            text="Customer prefers a call before 17:00 @minh",
            contact=_SAMPLE_CONTACT,
            attachments=[
                {
                    "ext": "pdf",
                    "url": "https://cdn.example.com/files/invoice.pdf",
                    "size": 95283,
                    "type": "file",
                    "fileName": "invoice.pdf",
                    "mimeType": "application/pdf",
                }
            ],
            mentionedUserIds=[2],
            mentionedUserEmails=["minh.tran@example.com"],
        ),
    ),
)
